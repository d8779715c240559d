/* What word types give the gates, the int8 recurrence over it, and the chain's sums; of a batch whose types
 * and sentences are computed one beside the other and never together: what one gets does not depend on the
 * others, to the last bit.
 *
 * Beside ONNX Runtime, which runs a graph of some fifteen operators a step, each with its own set-up:
 * here a step is one walk over the weights, which stay in the second-level cache. Plain C, with
 * GCC's or Clang's intrinsics for x86-64; elsewhere nametag_levels() is 0, and only the chain's sums are here.
 * Called from model/kernel.py, which says what the arrays are.
 *
 *     B sentences   T tokens in the longest   H hidden units a direction   K labels
 *     N word types  C characters of each      F filters                    D features
 */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(_WIN32)
#define API __declspec(dllexport)
#else
#define API __attribute__((visibility("default")))
#endif

#define SIDE 64     /* gates of a tile of weights */
#define TOGETHER 4  /* sentences, or word types, that share one walk over the weights */
#define MOST 16     /* sentences under way at once: what a tile register has rows */
#define FEW 5       /* sentences for which tile registers pay */
#define N_SUMS(H) (TOGETHER * 4 * (H) > 2 * MOST * 64 ? TOGETHER * 4 * (H) : 2 * MOST * 64)
#define MOST_LABELS 64
#define LINE 64     /* bytes of a cache line */

#if (defined(__GNUC__) || defined(__clang__)) && defined(__x86_64__)
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
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

/* One network, of which nothing changes while it computes. */
struct network {
    int64_t hidden, directions, labels;
    const int8_t *weights;      /* (directions, 4H / SIDE, H / 4, SIDE, 4), |w| <= 63 */
    const float *scales;        /* (directions, 4H): of a product of state in 127ths and weight */
    const int32_t *begin;       /* (directions, 4H): what sums begin with, since states have 128 added */
    const float *output;        /* (directions, K, H) */
    const float *bias;          /* (K) */
};

/* Sentences, and where their emissions are added. */
struct batch {
    const uint16_t *gates;          /* (…, directions, 4H): what word types give */
    const int64_t *rows;            /* (B, T): each token's in there */
    const int64_t *lengths, *order; /* (B) */
    int64_t n_sentences, n_steps;   /* B, T */
    float *emissions;               /* (B, T, K) */
};

/* Where the first cache line begins: a vector that lies in two is loaded in twice the time. */
INLINE float *aligned(void *room) {
    return (float *)(((uintptr_t)room + LINE - 1) / LINE * LINE);
}

/* 2^x for -126 <= x <= 126, to 3 units in the last place: 2 to the whole of it, and for the rest, between -1/2 and
 * 1/2, a polynomial that is least wrong there (fitted by us). */
#define POWER_OF_2(x, whole, scaled)                                                                 \
    __typeof__(x) n = whole, r = x - n;                                                              \
    __typeof__(x) p = 1.32647413e-03f * r + 9.67151392e-03f;                                         \
    p = (((p * r + 5.55073358e-02f) * r + 2.40222424e-01f) * r + 6.93146980e-01f) * r + 1.0f;        \
    return scaled

VNNI INLINE __m512 power_of_2_vnni(__m512 x) {
    POWER_OF_2(x, _mm512_roundscale_ps(x, 8), _mm512_scalef_ps(p, n));
}

AVX2 INLINE __m256 power_of_2_avx2(__m256 x) {
    POWER_OF_2(x, _mm256_round_ps(x, 8),
               _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(p),
                                                    _mm256_slli_epi32(_mm256_cvtps_epi32(n), 23))));
}

/* Of an exponent that is very small the power is 0 in AVX-512; in AVX2 it has to be kept from it. */
VNNI INLINE __m512 within_vnni(__m512 x, float most) { return _mm512_min_ps(x, _mm512_set1_ps(most)); }

AVX2 INLINE __m256 within_avx2(__m256 x, float most) {
    return _mm256_max_ps(_mm256_min_ps(x, _mm256_set1_ps(most)), _mm256_set1_ps(-most));
}

/* About 1 / x, to 14 bits and to 11. */
VNNI INLINE __m512 about_vnni(__m512 x) { return _mm512_rcp14_ps(x); }
AVX2 INLINE __m256 about_avx2(__m256 x) { return _mm256_rcp_ps(x); }

/* Gates: what the word type gives, and the state's sums. */
VNNI INLINE __m512 gates_vnni(const int32_t *sums, const float *scales, const uint16_t *given) {
    __m512 from = _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)given));
    return _mm512_cvtepi32_ps(_mm512_loadu_si512(sums)) * _mm512_loadu_ps(scales) + from;
}

AVX2 INLINE __m256 gates_avx2(const int32_t *sums, const float *scales, const uint16_t *given) {
    __m256 from = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)given));
    return _mm256_cvtepi32_ps(_mm256_loadu_si256((const __m256i *)sums)) * _mm256_loadu_ps(scales) + from;
}

/* A state in 127ths, ties to even, and 128 more. */
VNNI INLINE void put_vnni(uint8_t *rounded, __m512 state) {
    __m512i whole = _mm512_cvtps_epi32(state * 127.0f);
    whole = _mm512_add_epi32(whole, _mm512_set1_epi32(128));
    _mm_storeu_si128((__m128i *)rounded, _mm512_cvtepi32_epi8(whole));
}

AVX2 INLINE void put_avx2(uint8_t *rounded, __m256 state) {
    __m256i whole = _mm256_cvtps_epi32(state * 127.0f);
    whole = _mm256_add_epi32(whole, _mm256_set1_epi32(128));
    __m128i words = _mm_packus_epi32(_mm256_castsi256_si128(whole), _mm256_extracti128_si256(whole, 1));
    _mm_storel_epi64((__m128i *)rounded, _mm_packus_epi16(words, words));
}

/* Some units, as many as a register has floats, of one sentence: of their gates i, o, f and g the new cell and state.
 * Sums of a gate are ``apart``, what else it needs H. Exponents are bounded, so that nothing is infinite; quotients
 * are Newton's, from ``about``, since a division takes as long as an exponential. */
#define UNITS_ARGUMENTS                                                                              \
    int64_t hidden, int64_t apart, const int32_t *sums, const float *scales, const uint16_t *given,  \
        float *cell, float *state, uint8_t *rounded
#define UNITS(LEVEL, TARGET, FLOATS, LOAD, STORE)                                                    \
    TARGET INLINE FLOATS exp_##LEVEL(FLOATS x, float by) {                                           \
        return power_of_2_##LEVEL(within_##LEVEL(x * (by * 1.44269504088896341f), 40.0f));           \
    }                                                                                                \
    TARGET INLINE FLOATS quotient_##LEVEL(FLOATS a, FLOATS b) {                                      \
        FLOATS about = about_##LEVEL(b), q = a * about;                                              \
        return q + (a - b * q) * about;                                                              \
    }                                                                                                \
    TARGET INLINE void units_##LEVEL(UNITS_ARGUMENTS) {                                              \
        const int64_t o = hidden, f = 2 * hidden, g = 3 * hidden;                                    \
        FLOATS in = 1.0f + exp_##LEVEL(gates_##LEVEL(sums, scales, given), -1.0f);                   \
        FLOATS out = 1.0f + exp_##LEVEL(                                                             \
            gates_##LEVEL(sums + apart, scales + o, given + o), -1.0f);                 \
        FLOATS forget = 1.0f + exp_##LEVEL(                                                          \
            gates_##LEVEL(sums + 2 * apart, scales + f, given + f), -1.0f);             \
        FLOATS fresh = exp_##LEVEL(                                                                  \
            gates_##LEVEL(sums + 3 * apart, scales + g, given + g), -2.0f);             \
        FLOATS c = quotient_##LEVEL(LOAD(cell), forget) +                                            \
                   quotient_##LEVEL(1.0f - fresh, in * (1.0f + fresh));                              \
        FLOATS e = exp_##LEVEL(c, -2.0f);                                                            \
        FLOATS h = quotient_##LEVEL(1.0f - e, out * (1.0f + e));                                     \
        STORE(cell, c);                                                                              \
        STORE(state, h);                                                                             \
        put_##LEVEL(rounded, h);                                                                     \
    }

UNITS(vnni, VNNI, __m512, _mm512_loadu_ps, _mm512_storeu_ps)
UNITS(avx2, AVX2, __m256, _mm256_loadu_ps, _mm256_storeu_ps)

INLINE float dot(int64_t n, const float *a, const float *b) {
    float parts[16] = {0};
    for (int64_t i = 0; i < n; i += 16)
        for (int64_t j = 0; j < 16; j++) parts[j] += a[i + j] * b[i + j];
    for (int64_t width = 8; width; width /= 2)
        for (int64_t j = 0; j < width; j++) parts[j] += parts[j + width];
    return parts[0];
}

/* sums (n, 4H) of rounded states (n, H) with one direction's weights. */
#define SUMS_ARGUMENTS \
    int64_t hidden, const int8_t *weights, const int32_t *begin, const uint8_t *rounded, int32_t *sums

VNNI INLINE void sums_vnni(int n, SUMS_ARGUMENTS) {
    for (int64_t tile = 0; tile < 4 * hidden; tile += SIDE) {
        __m512i sum[TOGETHER][4];
        for (int b = 0; b < n; b++)
            for (int v = 0; v < 4; v++) sum[b][v] = _mm512_loadu_si512(begin + tile + 16 * v);
        for (int64_t k = 0; k < hidden; k += 4, weights += 4 * SIDE) {
            __m512i w[4];
            for (int v = 0; v < 4; v++) w[v] = _mm512_loadu_si512(weights + 64 * v);
            for (int b = 0; b < n; b++) {
                int32_t four;
                memcpy(&four, rounded + b * hidden + k, 4);
                __m512i s = _mm512_set1_epi32(four);
                for (int v = 0; v < 4; v++) sum[b][v] = _mm512_dpbusd_epi32(sum[b][v], s, w[v]);
            }
        }
        for (int b = 0; b < n; b++)
            for (int v = 0; v < 4; v++)
                _mm512_storeu_si512(sums + b * 4 * hidden + tile + 16 * v, sum[b][v]);
    }
}

/* Of sixteen registers a pair of sentences takes eight for a quarter of a tile each. ADD(sum, s, w): the products
 * of four bytes each. */
#define SUMS_PAIR(NAME, TARGET, ADD)                                                                 \
    TARGET INLINE void NAME##_pair(int n, SUMS_ARGUMENTS) {                                          \
        for (int64_t tile = 0; tile < 4 * hidden; tile += SIDE, weights += hidden * SIDE)            \
            for (int half = 0; half < 2; half++) {                                                   \
                __m256i sum[2][4];                                                                   \
                _Pragma("GCC unroll 2") for (int b = 0; b < n; b++)                                  \
                    _Pragma("GCC unroll 4") for (int v = 0; v < 4; v++)                              \
                        sum[b][v] = _mm256_loadu_si256(                                              \
                            (const __m256i *)(begin + tile + 32 * half + 8 * v));                    \
                const int8_t *at = weights + 2 * SIDE * half;                                        \
                for (int64_t k = 0; k < hidden; k += 4, at += 4 * SIDE)                              \
                    _Pragma("GCC unroll 4") for (int v = 0; v < 4; v++) {                            \
                        __m256i w = _mm256_loadu_si256((const __m256i *)(at + 32 * v));              \
                        _Pragma("GCC unroll 2") for (int b = 0; b < n; b++) {                        \
                            int32_t four;                                                            \
                            memcpy(&four, rounded + b * hidden + k, 4);                              \
                            sum[b][v] = ADD(sum[b][v], _mm256_set1_epi32(four), w);                  \
                        }                                                                            \
                    }                                                                                \
                _Pragma("GCC unroll 2") for (int b = 0; b < n; b++)                                  \
                    _Pragma("GCC unroll 4") for (int v = 0; v < 4; v++)                              \
                        _mm256_storeu_si256(                                                         \
                            (__m256i *)(sums + b * 4 * hidden + tile + 32 * half + 8 * v), sum[b][v]);\
            }                                                                                        \
    }                                                                                                \
    TARGET INLINE void NAME(int n, SUMS_ARGUMENTS) {                                                 \
        if (n > 2) {                                                                                 \
            NAME##_pair(n - 2, hidden, weights, begin, rounded + 2 * hidden, sums + 8 * hidden);     \
            n = 2;                                                                                   \
        }                                                                                            \
        NAME##_pair(n, hidden, weights, begin, rounded, sums);                                       \
    }

/* Two products of an unsigned byte and one of at most 63 fit into 16 bits. */
#define ADD_AVX2(sum, s, w)                                                                          \
    _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(s, w), _mm256_set1_epi16(1)))
SUMS_PAIR(sums_avx2, AVX2, ADD_AVX2)
#ifdef AVX_VNNI
SUMS_PAIR(sums_avx_vnni, AVX_VNNI, _mm256_dpbusd_avx_epi32)
#endif

/* Sentences under way in one direction, MOST of them at most, and what a step of all of them needs. */
struct step {
    int64_t hidden;
    const int8_t *weights; /* the direction's, as of struct network */
    const int32_t *begin;
    const float *scales;
    const uint16_t *given[MOST]; /* (4H): what the word type gives the gates */
    const uint16_t *soon[MOST];  /* the same of the step after it, to be fetched meanwhile */
    float *cell, *state;         /* (MOST, H) */
    uint8_t *rounded, *next;     /* (MOST, H): states in 127ths, and 128 more; before the step, and after it */
    int32_t *sums;               /* (TOGETHER, 4H), or two times (MOST, 4, 16) */
};

#define STEP(NAME, TARGET, SUMS, UNITS_OF, WIDTH)                                                    \
    TARGET INLINE void NAME(struct step *s, int n) {                                                 \
        const int64_t H = s->hidden;                                                                 \
        switch (n) {                                                                                 \
            case 1: SUMS(1, H, s->weights, s->begin, s->rounded, s->sums); break;                              \
            case 2: SUMS(2, H, s->weights, s->begin, s->rounded, s->sums); break;                              \
            case 3: SUMS(3, H, s->weights, s->begin, s->rounded, s->sums); break;                              \
            default: SUMS(4, H, s->weights, s->begin, s->rounded, s->sums);                                    \
        }                                                                                            \
        for (int b = 0; b < n; b++)                                                                  \
            for (int64_t j = 0; j < H; j += WIDTH)                                                   \
                UNITS_OF(H, H, s->sums + b * 4 * H + j, s->scales + j, s->given[b] + j,              \
                         s->cell + b * H + j, s->state + b * H + j, s->next + b * H + j);            \
    }

STEP(step_vnni, VNNI, sums_vnni, units_vnni, 16)
STEP(step_avx2, AVX2, sums_avx2, units_avx2, 8)
#ifdef AVX_VNNI
STEP(step_avx_vnni, AVX_VNNI, sums_avx_vnni, units_avx2, 8)
#endif

#ifdef AMX
/* Tile registers: sums of the gates i, o, f and g, sixteen units of sixteen sentences each; 64 states of the
 * sentences; 64 weights of each of sixteen units. */
static const struct {
    uint8_t palette, start, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} TILES = {1, 0, {0}, {64, 64, 64, 64, 64, 64, 64}, {16, 16, 16, 16, 16, 16, 16}};

/* The intrinsics do not say that they read and write memory. */
#define MEMORY __asm__ volatile("" ::: "memory")

#define SUM_OF_GATE(sum, tile)                                                                       \
    do {                                                                                             \
        const int64_t o = sum * H + j;                                                               \
        _tile_loadd(tile, s->weights + (o / SIDE * H + k) * SIDE + o % SIDE * 4, 4 * SIDE);          \
        _tile_dpbusd(sum, 4, tile);                                                                  \
    } while (0)

/* Sixteen units at a time; while their sums are made in the tile registers, the others make states of the sixteen
 * before, some sentences with each part of the sums. */
AMX INLINE void step_amx(struct step *s, int n) {
    const int64_t H = s->hidden;
    if (n < FEW) {
        step_vnni(s, n);
        return;
    }
    for (int64_t j = 0; j <= H; j += 16) {
        int32_t *sums = s->sums + (j & 16) * 64;
        const int32_t *before = s->sums + (~j & 16) * 64;
        if (j < H) {
            MEMORY;
            _tile_loadd(0, s->begin + j, 0);
            _tile_loadd(1, s->begin + H + j, 0);
            _tile_loadd(2, s->begin + 2 * H + j, 0);
            _tile_loadd(3, s->begin + 3 * H + j, 0);
        }
        int64_t b = 0;
        for (int64_t k = 0; k < H; k += 64) {
            if (j < H) {
                MEMORY;
                _tile_loadd(4, s->rounded + k, H);
                SUM_OF_GATE(0, 5);
                SUM_OF_GATE(1, 6);
                SUM_OF_GATE(2, 5);
                SUM_OF_GATE(3, 6);
            }
            for (int64_t i = j - 16; j && b * H < n * (k + 64); b++) {
                for (int64_t line = i * 4; line < i * 4 + 64; line += 32)
                    _mm_prefetch((const char *)(s->soon[b] + line), _MM_HINT_T0);
                units_vnni(H, 16, before + 64 * b, s->scales + i, s->given[b] + i, s->cell + b * H + i,
                           s->state + b * H + i, s->next + b * H + i);
            }
        }
        if (j < H) {
            _tile_stored(0, sums, 256);
            _tile_stored(1, sums + 16, 256);
            _tile_stored(2, sums + 32, 256);
            _tile_stored(3, sums + 48, 256);
            MEMORY;
        }
    }
}
#endif

/* One direction of a batch, from the sentences' first token (or last) to their last (or first), ``most`` of them at
 * a time: where one ends the next takes its place. Adds to their emissions. */
#define DIRECTION(NAME, TARGET, STEP, AT_ONCE)                                                       \
    TARGET static void NAME(const struct network *net, int64_t d, const struct batch *batch,         \
                            float *scratch) {                                                        \
        const int64_t H = net->hidden, K = net->labels, G = 4 * H;                                   \
        struct step s = {.hidden = H, .weights = net->weights + d * G * H,                           \
                         .begin = net->begin + d * G, .scales = net->scales + d * G};            \
        s.cell = scratch;                                                                            \
        s.state = s.cell + MOST * H;                                                                 \
        s.sums = (int32_t *)(s.state + MOST * H);                                                    \
        s.rounded = (uint8_t *)(s.sums + N_SUMS(H));                                                   \
        s.next = s.rounded + MOST * H;                                                               \
        int64_t which[MOST], at[MOST], left[MOST], begun = 0;                                        \
        int n = 0;                                                                                   \
        for (;;) {                                                                                   \
            for (int b = 0; b < AT_ONCE; b++) {                                                      \
                if (b < n && left[b]) continue;                                                      \
                if (begun < batch->n_sentences) {                                                    \
                    which[b] = batch->order[begun++];                                                \
                    left[b] = batch->lengths[which[b]];                                              \
                    at[b] = d ? left[b] - 1 : 0;                                                     \
                    memset(s.cell + b * H, 0, (size_t)H * sizeof(float));                            \
                    memset(s.rounded + b * H, 128, (size_t)H);                                       \
                    n = b < n ? n : b + 1;                                                           \
                } else if (b < n) {                                                                  \
                    while (n > b && !left[n - 1]) n--;                                               \
                    if (n <= b) break;                                                               \
                    n--;                                                                             \
                    which[b] = which[n];                                                             \
                    left[b] = left[n];                                                               \
                    at[b] = at[n];                                                                   \
                    memcpy(s.cell + b * H, s.cell + n * H, (size_t)H * sizeof(float));               \
                    memcpy(s.rounded + b * H, s.rounded + n * H, (size_t)H);                         \
                } else {                                                                             \
                    break;                                                                           \
                }                                                                                    \
            }                                                                                        \
            if (!n) return;                                                                          \
            for (int b = 0; b < n; b++) {                                                            \
                const int64_t *row = batch->rows + which[b] * batch->n_steps + at[b];                \
                s.given[b] = batch->gates + (row[0] * net->directions + d) * G;                      \
                row += left[b] < 2 ? 0 : d ? -1 : 1;                                                 \
                s.soon[b] = batch->gates + (row[0] * net->directions + d) * G;                       \
            }                                                                                        \
            STEP(&s, n);                                                                             \
            for (int b = 0; b < n; b++) {                                                            \
                float *emission = batch->emissions + (which[b] * batch->n_steps + at[b]) * K;        \
                for (int64_t k = 0; k < K; k++)                                                      \
                    emission[k] += dot(H, s.state + b * H, net->output + (d * K + k) * H);           \
                at[b] += d ? -1 : 1;                                                                 \
                left[b]--;                                                                           \
            }                                                                                        \
            uint8_t *before = s.rounded;                                                             \
            s.rounded = s.next;                                                                      \
            s.next = before;                                                                         \
        }                                                                                            \
    }

DIRECTION(direction_vnni, VNNI, step_vnni, TOGETHER)
DIRECTION(direction_avx2, AVX2, step_avx2, TOGETHER)
#ifdef AVX_VNNI
DIRECTION(direction_avx_vnni, AVX_VNNI, step_avx_vnni, TOGETHER)
#else
#define direction_avx_vnni direction_avx2
#endif
#ifdef AMX
DIRECTION(direction_in_tiles, AMX, step_amx, MOST)
static void direction_amx(const struct network *net, int64_t d, const struct batch *batch, float *scratch);
AMX static void direction_amx(const struct network *net, int64_t d, const struct batch *batch, float *scratch) {
    _tile_loadconfig(&TILES);
    direction_in_tiles(net, d, batch, scratch);
    _tile_release();
}
#else
#define direction_amx direction_vnni
#endif

#ifdef AMX
/* The system gives the tile registers to processes that ask. */
static int32_t has_tiles(void) {
    const uint32_t both = 3u << 24; /* tiles, and products of bytes */
    uint32_t a, b, c, d;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d & both) == both &&
           !syscall(SYS_arch_prctl, 0x1023 /* ARCH_REQ_XCOMP_PERM */, 18);
}
#else
#define has_tiles() 0
#endif

/* What this processor can be made use of with, bits: 2 AVX2, 4 AVX2 with VNNI, 8 AVX-512 with VNNI, 16 that with AMX;
 * 0 nothing. */
API int32_t nametag_levels(void) {
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return 0;
    int32_t levels = 2;
#ifdef AVX_VNNI
    if (__builtin_cpu_supports("avxvnni")) levels |= 4;
#endif
    if (__builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni"))
        levels |= has_tiles() ? 24 : 8;
    return levels;
}

/* emissions (B, T, K) for gates (…, directions, 4H), rows (B, T) of them and lengths (B). ``order``: the
 * sentences, the longest first. Returns 0, or 1 where there is no memory. */
API int32_t nametag_emissions(const struct network *net, int32_t level, const uint16_t *gates,
                              const int64_t *rows, const int64_t *lengths, const int64_t *order,
                              int64_t n_sentences, int64_t n_steps, float *emissions) {
    const int64_t H = net->hidden, K = net->labels;
    struct batch batch = {gates, rows, lengths, order, n_sentences, n_steps, emissions};
    while (batch.n_sentences && !lengths[order[batch.n_sentences - 1]]) batch.n_sentences--;
    const int64_t floats = 2 * MOST * H + N_SUMS(H);
    void *room = malloc((size_t)(floats * (int64_t)sizeof(float) + 2 * MOST * H + LINE));
    if (!room) return 1;
    for (int64_t i = 0; i < n_sentences * n_steps; i++)
        memcpy(emissions + i * K, net->bias, (size_t)K * sizeof(float));
    for (int64_t d = 0; d < net->directions; d++)
        (level == 4 && H % 64 == 0 ? direction_amx
         : level == 3 ? direction_vnni
         : level == 2 ? direction_avx_vnni
                      : direction_avx2)(net, d, &batch, aligned(room));
    free(room);
    return 0;
}

/* A layer whose product with W_x has the gates as its outputs, and what its inputs are made from. All rows
 * are of whole 16 floats, and outputs of whole SIDEs; zeros fill them up. */
struct words {
    int64_t cased, lower;       /* columns of the two tables */
    int64_t filters, width;     /* F, and how many characters a filter sees; either may be 0 */
    int64_t characters, window; /* how many are known, and C */
    int64_t features, gates;    /* D; directions * 4H */
    const int8_t *cased_rows, *lower_rows;
    const float *cased_scales, *lower_scales;
    const float *places;        /* (width, characters, F): what a character gives the filters there */
    const float *filter_bias;   /* (F) */
    const float *shapes;        /* (shapes, D): what a shape gives the features, their bias included */
    const float *projection;    /* (D / SIDE, cased + lower + F, SIDE) */
    const float *input;         /* (gates / SIDE, D, SIDE) */
    const float *bias;          /* (gates) */
};

/* out (n_out) = begin + x (n_in) W, of n types each. */
#define PRODUCT_ARGUMENTS \
    int64_t n_in, int64_t n_out, const float *w, const float *const *begin, const float *x, float *out

VNNI INLINE void product_vnni(int n, PRODUCT_ARGUMENTS) {
    for (int64_t tile = 0; tile < n_out; tile += SIDE) {
        __m512 sum[TOGETHER][4];
        for (int b = 0; b < n; b++)
            for (int v = 0; v < 4; v++) sum[b][v] = _mm512_loadu_ps(begin[b] + tile + 16 * v);
        for (int64_t k = 0; k < n_in; k++, w += SIDE) {
            __m512 row[4];
            for (int v = 0; v < 4; v++) row[v] = _mm512_loadu_ps(w + 16 * v);
            for (int b = 0; b < n; b++) {
                __m512 one = _mm512_set1_ps(x[b * n_in + k]);
                for (int v = 0; v < 4; v++) sum[b][v] = _mm512_fmadd_ps(one, row[v], sum[b][v]);
            }
        }
        for (int b = 0; b < n; b++)
            for (int v = 0; v < 4; v++) _mm512_storeu_ps(out + b * n_out + tile + 16 * v, sum[b][v]);
    }
}

AVX2 INLINE void product_avx2_pair(int n, PRODUCT_ARGUMENTS) {
    for (int64_t tile = 0; tile < n_out; tile += SIDE / 2) {
        const float *at = w + tile / SIDE * n_in * SIDE + tile % SIDE;
        __m256 sum[2][4];
#pragma GCC unroll 2
        for (int b = 0; b < n; b++)
#pragma GCC unroll 4
            for (int v = 0; v < 4; v++) sum[b][v] = _mm256_loadu_ps(begin[b] + tile + 8 * v);
        for (int64_t k = 0; k < n_in; k++, at += SIDE)
#pragma GCC unroll 4
            for (int v = 0; v < 4; v++) {
                __m256 row = _mm256_loadu_ps(at + 8 * v);
#pragma GCC unroll 2
                for (int b = 0; b < n; b++)
                    sum[b][v] = _mm256_fmadd_ps(_mm256_set1_ps(x[b * n_in + k]), row, sum[b][v]);
            }
#pragma GCC unroll 2
        for (int b = 0; b < n; b++)
#pragma GCC unroll 4
            for (int v = 0; v < 4; v++) _mm256_storeu_ps(out + b * n_out + tile + 8 * v, sum[b][v]);
    }
}

AVX2 INLINE void product_avx2(int n, PRODUCT_ARGUMENTS) {
    if (n > 2) {
        product_avx2_pair(n - 2, n_in, n_out, w, begin + 2, x + 2 * n_in, out + 2 * n_out);
        n = 2;
    }
    product_avx2_pair(n, n_in, n_out, w, begin, x, out);
}

AVX2 INLINE void narrow(int64_t n, const float *x, uint16_t *half) {
    for (int64_t i = 0; i < n; i += 8)
        _mm_storeu_si128((__m128i *)(half + i), _mm256_cvtps_ph(_mm256_loadu_ps(x + i), 0));
}

INLINE void unpack(int64_t n, const int8_t *restrict row, float scale, float *restrict out) {
    for (int64_t i = 0; i < n; i++) out[i] = (float)row[i] * scale;
}

/* The filters' maxima (F) over a type's characters, and over one place past its end if its window has one:
 * there is nothing new in what comes after that. ``sum``: F floats of scratch. */
INLINE void filter(const struct words *net, const int64_t *chars, float *restrict sum, float *restrict most) {
    const int64_t F = net->filters, around = net->width / 2;
    int64_t n = net->window;
    while (n > 0 && !chars[n - 1]) n--;
    int64_t n_places = n + around + 1 < net->window ? n + around + 1 : net->window;
    for (int64_t f = 0; f < F; f++) most[f] = -INFINITY;
    for (int64_t at = -around; at < n_places - around; at++) {
        for (int64_t f = 0; f < F; f++) sum[f] = 0.0f;
        for (int64_t p = 0; p < net->width; p++) {
            if (at + p < 0 || at + p >= n) continue;
            const float *restrict given = net->places + (p * net->characters + chars[at + p]) * F;
            for (int64_t f = 0; f < F; f++) sum[f] += given[f];
        }
        for (int64_t f = 0; f < F; f++) most[f] = most[f] > sum[f] ? most[f] : sum[f];
    }
    for (int64_t f = 0; f < F; f++) {
        float x = most[f] + net->filter_bias[f];
        most[f] = x > 0.0f ? x : 0.0f;
    }
}

struct types { /* that share a walk */
    const int64_t *cased, *lower, *shapes, *chars;
};

/* The projection, and the product with W_x; the compiler sees how many types there are. */
#define LAYERS(N, PRODUCT)                                                                           \
    PRODUCT(N, n_in, D, net->projection, shape, x, features);                                        \
    PRODUCT(N, D, G, net->input, bias, features, out)

/* The gates (n, gates) of up to TOGETHER types. */
#define WORDS(NAME, TARGET, PRODUCT)                                                                 \
    TARGET static void NAME(const struct words *net, int n, struct types of, float *scratch,         \
                            uint16_t *gates) {                                                       \
        const int64_t D = net->features, G = net->gates, F = net->filters;                           \
        const int64_t n_in = net->cased + net->lower + F;                                            \
        float *x = scratch, *features = x + TOGETHER * n_in, *out = features + TOGETHER * D;         \
        const float *shape[TOGETHER], *bias[TOGETHER];                                               \
        for (int b = 0; b < n; b++) {                                                                \
            float *mine = x + b * n_in;                                                              \
            unpack(net->cased, net->cased_rows + of.cased[b] * net->cased,                           \
                   net->cased ? net->cased_scales[of.cased[b]] : 0, mine);                           \
            unpack(net->lower, net->lower_rows + of.lower[b] * net->lower,                           \
                   net->lower ? net->lower_scales[of.lower[b]] : 0, mine + net->cased);              \
            filter(net, of.chars + b * net->window, out, mine + net->cased + net->lower);            \
            shape[b] = net->shapes + of.shapes[b] * D;                                               \
            bias[b] = net->bias;                                                                     \
        }                                                                                            \
        switch (n) {                                                                                 \
            case 1: LAYERS(1, PRODUCT); break;                                                       \
            case 2: LAYERS(2, PRODUCT); break;                                                       \
            case 3: LAYERS(3, PRODUCT); break;                                                       \
            default: LAYERS(4, PRODUCT);                                                             \
        }                                                                                            \
        narrow(n * G, out, gates);                                                                   \
    }

WORDS(words_vnni, VNNI, product_vnni)
WORDS(words_avx2, AVX2, product_avx2)

/* gates (N, gates) float16 of word types: rows of the tables (N) each, shapes (N) and characters (N, C), 0
 * after the last. Returns 0, or 1 where there is no memory. */
API int32_t nametag_words(const struct words *net, int32_t level, const int64_t *cased, const int64_t *lower,
                          const int64_t *shapes, const int64_t *chars, int64_t n_types, uint16_t *gates) {
    const int64_t n_in = net->cased + net->lower + net->filters;
    const int64_t floats = TOGETHER * (n_in + net->features + net->gates);
    void *room = malloc((size_t)floats * sizeof(float) + LINE);
    if (!room) return 1;
    float *scratch = aligned(room);
    for (int64_t first = 0; first < n_types; first += TOGETHER) {
        int n = n_types - first < TOGETHER ? (int)(n_types - first) : TOGETHER;
        struct types of = {cased + first, lower + first, shapes + first, chars + first * net->window};
        (level > 2 ? words_vnni : words_avx2)(net, n, of, scratch, gates + first * net->gates);
    }
    free(room);
    return 0;
}

#else

API int32_t nametag_levels(void) { return 0; }

#endif

/* The most probable labels (T) of one sentence's scores (T, K), by Viterbi; ``pointers`` (T, K) is scratch. */
static void best_path(int64_t n, int64_t K, const double *scores, const double *start, const double *moves,
                      const double *end, int64_t *pointers, int64_t *path) {
    double best[MOST_LABELS], next[MOST_LABELS];
    for (int64_t k = 0; k < K; k++) best[k] = scores[k] + start[k];
    for (int64_t t = 1; t < n; t++) {
        for (int64_t k = 0; k < K; k++) {
            int64_t came = 0;
            double most = best[0] + moves[k];
            for (int64_t j = 1; j < K; j++) {
                double arrived = best[j] + moves[j * K + k];
                if (arrived > most) most = arrived, came = j;
            }
            pointers[t * K + k] = came;
            next[k] = scores[t * K + k] + most;
        }
        memcpy(best, next, sizeof best);
    }
    int64_t last = 0;
    for (int64_t k = 1; k < K; k++)
        if (best[k] + end[k] > best[last] + end[last]) last = k;
    path[n - 1] = last;
    for (int64_t t = n - 1; t > 0; t--) path[t - 1] = pointers[t * K + path[t]];
}

/* One direction of forward-backward: a step's message is the sum over where it came from, scaled to 1. */
static void message(int64_t K, const double *before, const double *moves, int64_t from, int64_t to,
                    const double *potential, double *out) {
    double total = 0;
    for (int64_t k = 0; k < K; k++) {
        double sum = 0;
        for (int64_t j = 0; j < K; j++) sum += before[j] * moves[j * from + k * to];
        out[k] = sum * potential[k];
        total += out[k];
    }
    for (int64_t k = 0; k < K; k++) out[k] /= total;
}

/* Of emissions (B, T, K): the best path (B, T), and under the chain at ``temperature`` the marginals and
 * the suffixes, (B, T, K) each, as model.head.messages has them; and the marginals of the path's labels
 * (B, T), rounded to whole 1 / ``parts``. Scores of the chain are logarithms, -inf in the path's where a
 * move is not allowed. Returns 0, or 1 where there is no memory. */
API int32_t nametag_chain(const double *emissions, const int64_t *lengths, int64_t n_sentences, int64_t n_steps,
                          int64_t K, const double *start, const double *moves, const double *end,
                          const double *start_mass, const double *moves_mass, const double *end_mass,
                          double temperature, double parts, int64_t *path, double *chosen,
                          double *marginals, double *suffixes) {
    int64_t *pointers = malloc((size_t)(n_steps * K) * sizeof *pointers);
    double *potentials = malloc((size_t)(n_steps * K) * sizeof *potentials);
    if (!pointers || !potentials) {
        free(pointers);
        free(potentials);
        return 1;
    }
    for (int64_t b = 0; b < n_sentences; b++) {
        const int64_t n = lengths[b], at = b * n_steps * K;
        double *forward = marginals + at, *backward = suffixes + at;
        best_path(n, K, emissions + at, start, moves, end, pointers, path + b * n_steps);
        for (int64_t t = 0; t < n; t++) {
            const double *score = emissions + at + t * K;
            double most = score[0];
            for (int64_t k = 1; k < K; k++) most = score[k] > most ? score[k] : most;
            for (int64_t k = 0; k < K; k++) {
                /* exp(-500) is still a normal number: no probability becomes 0 / 0. */
                double x = (score[k] - most) / temperature;
                potentials[t * K + k] = exp(x > -500.0 ? x : -500.0);
            }
        }
        double edge[MOST_LABELS];
        for (int64_t t = 0; t < n; t++) {
            const double *potential = potentials + t * K;
            if (t) {
                message(K, forward + (t - 1) * K, moves_mass, K, 1, potential, forward + t * K);
            } else {
                double total = 0;
                for (int64_t k = 0; k < K; k++) total += edge[k] = start_mass[k] * potential[k];
                for (int64_t k = 0; k < K; k++) forward[k] = edge[k] / total;
            }
        }
        for (int64_t t = n - 1; t >= 0; t--) {
            const double *potential = potentials + t * K;
            if (t < n - 1) {
                message(K, backward + (t + 1) * K, moves_mass, 1, K, potential, backward + t * K);
            } else {
                double total = 0;
                for (int64_t k = 0; k < K; k++) total += edge[k] = end_mass[k] * potential[k];
                for (int64_t k = 0; k < K; k++) backward[t * K + k] = edge[k] / total;
            }
        }
        for (int64_t t = 0; t < n; t++) {
            double total = 0;
            for (int64_t k = 0; k < K; k++) {
                forward[t * K + k] *= backward[t * K + k] / potentials[t * K + k];
                total += forward[t * K + k];
            }
            for (int64_t k = 0; k < K; k++) forward[t * K + k] /= total;
            chosen[b * n_steps + t] = rint(forward[t * K + path[b * n_steps + t]] * parts) / parts;
        }
    }
    free(pointers);
    free(potentials);
    return 0;
}
