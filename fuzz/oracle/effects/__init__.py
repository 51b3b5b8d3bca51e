"""Laws of single operations, and which answers they may give: `effect` has the table."""
