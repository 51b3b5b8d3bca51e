"""Linux 7.3's separate paths: HugeTLB vmemmap optimization and device-DAX deduplication as two mechanisms that
share little.

`reference.paths.SeparatePaths` is the side behind the seam `mm.vmemmap`. The modules are named after the kernel's
files, except `populate` (the populating half of mm/sparse-vmemmap.c), `hugetlb_boot` (the boot parts of
mm/hugetlb.c and mm/sparse.c) and `x86_pgtable` (arch/x86/mm/init_64.c). TLB flushes are left out everywhere: no
observer here can see one.
"""
