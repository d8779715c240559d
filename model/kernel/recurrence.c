/* The int8 recurrence over what word types give the gates, and the output layer. */

#include "kernel.h"

#ifdef HAS_LEVELS
#define MOST 16 /* sentences under way at once: what a tile register has rows */
#define FEW 5   /* sentences for which tile registers pay */
/* Numbers in struct step's sums, by any method. */
#define N_SUMS(H) (TOGETHER * 4 * (H) > 2 * MOST * 64 ? TOGETHER * 4 * (H) : 2 * MOST * 64)

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
            gates_##LEVEL(sums + apart, scales + o, given + o), -1.0f);                              \
        FLOATS forget = 1.0f + exp_##LEVEL(                                                          \
            gates_##LEVEL(sums + 2 * apart, scales + f, given + f), -1.0f);                          \
        FLOATS fresh = exp_##LEVEL(                                                                  \
            gates_##LEVEL(sums + 3 * apart, scales + g, given + g), -2.0f);                          \
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
    int n_fresh;                 /* sentences that begin with this step, the last ones */
    int n;                       /* sentences under way; of each: */
    int64_t which[MOST], at[MOST], left[MOST]; /* its number, its token, and tokens to come with that one */
    int64_t n_begun;             /* of all sentences, in their order */
};

#define STEP(NAME, TARGET, SUMS, UNITS_OF, WIDTH)                                                    \
    TARGET INLINE void NAME(struct step *s, int n) {                                                 \
        const int64_t H = s->hidden;                                                                 \
        switch (s->n_fresh < n ? n : 0) {                                                            \
            case 0: memset(s->sums, 0, (size_t)(n * 4 * H) * sizeof(int32_t)); break; /* of states 0 */\
            case 1: SUMS(1, H, s->weights, s->begin, s->rounded, s->sums); break;                    \
            case 2: SUMS(2, H, s->weights, s->begin, s->rounded, s->sums); break;                    \
            case 3: SUMS(3, H, s->weights, s->begin, s->rounded, s->sums); break;                    \
            default: SUMS(4, H, s->weights, s->begin, s->rounded, s->sums);                          \
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

/* Takes out the sentences that have ended, puts the next ones in, AT_ONCE of them in all, and says what their tokens
 * give. Returns how many there are. */
static int next_step(struct step *s, const struct network *net, int64_t d, const struct batch *batch, int at_once) {
    const int64_t H = net->hidden, G = 4 * H;
    for (int b = 0; b < s->n;) {
        if (s->left[b]) {
            b++;
        } else if (b < --s->n) {
            s->which[b] = s->which[s->n];
            s->at[b] = s->at[s->n];
            s->left[b] = s->left[s->n];
            memcpy(s->cell + b * H, s->cell + s->n * H, (size_t)H * sizeof(float));
            memcpy(s->rounded + b * H, s->rounded + s->n * H, (size_t)H);
        }
    }
    s->n_fresh = 0;
    for (; s->n < at_once && s->n_begun < batch->n_sentences; s->n++) {
        s->n_fresh++;
        const int64_t which = batch->order[s->n_begun++], length = batch->lengths[which];
        s->which[s->n] = which;
        s->at[s->n] = d ? length - 1 : 0;
        s->left[s->n] = length;
        memset(s->cell + s->n * H, 0, (size_t)H * sizeof(float));
        memset(s->rounded + s->n * H, 128, (size_t)H);
    }
    for (int b = 0; b < s->n; b++) {
        const int64_t *row = batch->rows + s->which[b] * batch->n_steps + s->at[b];
        s->given[b] = batch->gates + (row[0] * net->directions + d) * G;
        row += s->left[b] < 2 ? 0 : d ? -1 : 1;
        s->soon[b] = batch->gates + (row[0] * net->directions + d) * G;
    }
    return s->n;
}

/* One direction of a batch, from the sentences' first token (or last) to their last (or first), AT_ONCE of them at a
 * time: where one ends the next takes its place. Adds to their emissions. */
#define DIRECTION(NAME, TARGET, STEP, AT_ONCE)                                                       \
    TARGET static void NAME(const struct network *net, int64_t d, const struct batch *batch,         \
                            float *scratch) {                                                        \
        const int64_t H = net->hidden, K = net->labels, G = 4 * H;                                   \
        struct step s = {.hidden = H, .weights = net->weights + d * G * H,                           \
                         .begin = net->begin + d * G, .scales = net->scales + d * G};                \
        s.cell = scratch;                                                                            \
        s.state = s.cell + MOST * H;                                                                 \
        s.sums = (int32_t *)(s.state + MOST * H);                                                    \
        s.rounded = (uint8_t *)(s.sums + N_SUMS(H));                                                 \
        s.next = s.rounded + MOST * H;                                                               \
        for (int n; (n = next_step(&s, net, d, batch, AT_ONCE));) {                                  \
            STEP(&s, n);                                                                             \
            for (int b = 0; b < n; b++) {                                                            \
                float *emission = batch->emissions + (s.which[b] * batch->n_steps + s.at[b]) * K;    \
                for (int64_t k = 0; k < K; k++)                                                      \
                    emission[k] += dot(H, s.state + b * H, net->output + (d * K + k) * H);           \
                s.at[b] += d ? -1 : 1;                                                               \
                s.left[b]--;                                                                         \
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
AMX static void direction_amx(const struct network *net, int64_t d, const struct batch *batch, float *scratch) {
    _tile_loadconfig(&TILES);
    direction_in_tiles(net, d, batch, scratch);
    _tile_release();
}
#else
#define direction_amx direction_vnni
#endif

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
    const int in_tiles = level == IN_AMX && n_sentences >= FEW && H % 64 == 0;
    for (int64_t d = 0; d < net->directions; d++)
        (in_tiles                  ? direction_amx
         : level >= IN_AVX512_VNNI ? direction_vnni
         : level == IN_AVX_VNNI    ? direction_avx_vnni
                                   : direction_avx2)(net, d, &batch, aligned(room));
    free(room);
    return 0;
}

#endif
