/* What this processor has. */

#include "kernel.h"

#ifdef AMX
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

/* The system gives the tile registers to processes that ask. */
static int has_tiles(void) {
    const uint32_t both = 3u << 24; /* tiles, and products of bytes */
    uint32_t a, b, c, d;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d & both) == both &&
           !syscall(SYS_arch_prctl, 0x1023 /* ARCH_REQ_XCOMP_PERM */, 18 /* tile data */);
}
#else
#define has_tiles() 0
#endif

/* What this processor can be made use of with: a bit for each level; 0 nothing. */
API int32_t nametag_levels(void) {
    int32_t levels = 0;
#ifdef HAS_LEVELS
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return 0;
    levels |= 1 << IN_AVX2;
#ifdef AVX_VNNI
    if (__builtin_cpu_supports("avxvnni")) levels |= 1 << IN_AVX_VNNI;
#endif
    if (__builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni")) {
        levels |= 1 << IN_AVX512_VNNI;
        if (has_tiles()) levels |= 1 << IN_AMX;
    }
#endif
    return levels;
}
