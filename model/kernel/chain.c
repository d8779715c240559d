/* The sums over labellings of a chain: the best path, and forward-backward. Plain C. */

#include <math.h>

#include "kernel.h"

#define MOST_LABELS 64

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
