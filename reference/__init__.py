"""Linux 7.3's separate paths: HugeTLB vmemmap optimization and device-DAX deduplication as two mechanisms that
share little.

`reference.paths.SeparatePaths` is the side behind the seam `mm.vmemmap`. The modules are named after the kernel's
files, except `populate` (the populating half of mm/sparse-vmemmap.c), `hugetlb_boot` (the boot parts of
mm/hugetlb.c and mm/sparse.c), `teardown` (what the architectures' vmemmap_free have in common) and the architectures
that `arch` lists: `x86_pgtable` (arch/x86/mm/init_64.c), `riscv_init`, `loongarch_init`, `arm64_mmu`, `s390_vmem`,
`radix_pgtable` and `hash_vmemmap` (arch/powerpc/mm/init_64.c).
"""
