"""What people look at: a finding as a page, a mail or an export."""
