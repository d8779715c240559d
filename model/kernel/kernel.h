/* What the kernel's parts have in common. A part is compiled for several processors at once, and told by a level
 * which of them it runs on: what it computes for one word type or sentence does not depend on those beside it, to
 * the last bit.
 *
 *     words.c       what word types give the gates
 *     recurrence.c  the int8 recurrence over it
 *     chain.c       the sums over labellings
 *     levels.c      what this processor has
 *
 * Beside ONNX Runtime, which runs a graph of some fifteen operators a step, each with its own set-up: here a step is
 * one walk over the weights, which stay in the second-level cache. Plain C, with GCC's or Clang's intrinsics for
 * x86-64; elsewhere nametag_levels() is 0, and only the chain's sums are there. Called from __init__.py, which says
 * what the arrays are.
 *
 *     B sentences   T tokens in the longest   H hidden units a direction   K labels
 *     N word types  C characters of each      F filters                    D features
 */

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(_WIN32)
#define API __declspec(dllexport)
#else
#define API __attribute__((visibility("default")))
#endif

#define SIDE 64    /* outputs of a tile of weights */
#define TOGETHER 4 /* sentences, or word types, that share one walk over the weights */
#define LINE 64    /* bytes of a cache line */

#if (defined(__GNUC__) || defined(__clang__)) && defined(__x86_64__)
#define HAS_LEVELS
#if !defined(__clang__)
/* Whatever the flags: plain loops have to become loops of vectors, which -O2, or regard for traps in comparisons,
 * would prevent. */
#pragma GCC optimize("O3", "no-trapping-math", "no-math-errno")
#endif
#include <immintrin.h>
#define INLINE static inline __attribute__((always_inline))
#define AVX2 __attribute__((target("avx2,fma,f16c")))
#if defined(__clang__) ? __clang_major__ >= 13 : __GNUC__ >= 11
#define AVX_VNNI __attribute__((target("avx2,fma,f16c,avxvnni")))
#endif
#define AVX512 "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni"
#define VNNI __attribute__((target(AVX512)))
#if defined(__linux__) && defined(AVX_VNNI)
#define AMX __attribute__((target(AVX512 ",amx-tile,amx-int8")))
#endif

enum { IN_AVX2 = 1, IN_AVX_VNNI, IN_AVX512_VNNI, IN_AMX }; /* levels, as __init__.py has them */

/* Where the first cache line begins: a vector that lies in two is loaded in twice the time. */
INLINE float *aligned(void *room) {
    return (float *)(((uintptr_t)room + LINE - 1) / LINE * LINE);
}
#endif
