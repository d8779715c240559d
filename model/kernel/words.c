/* What word types give the gates: rows of the tables, characters by a convolution, and two products. */

#include <math.h>

#include "kernel.h"

#ifdef HAS_LEVELS
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
        (level >= IN_AVX512_VNNI ? words_vnni : words_avx2)(net, n, of, scratch, gates + first * net->gates);
    }
    free(room);
    return 0;
}

#endif
