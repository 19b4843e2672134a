/* The router: norm, scores, softmax and choice of a row in one go. What is rounded, and when, is what torch's form rounds (ops/moe.py), since a
   choice between two experts may hang on a last bit. Of equal scores the lower expert is taken. */
#include "lanes.h"

enum { ROW_SHARE = 8 }; /* rows of a task */

typedef struct {
    const number *x, *proj, *scale; /* [rows, width], [experts, width], [width] */
    const float *expert_scale;      /* [experts] */
    float *weights;                 /* [rows, choices] */
    long *index;
    long rows, width, experts, choices;
    float eps, factor; /* factor: width^-1/2 */
    long next;
} Router;

static inline float dot(const number *a, const number *b, long width) {
    __m512 sum = _mm512_setzero_ps();
    for (long d = 0; d < width; d += LANES * WORD) sum = add_products(sum, _mm512_loadu_si512(a + d), _mm512_loadu_si512(b + d));
    return _mm512_reduce_add_ps(sum);
}

static void route(const Router *j, long row, number *y, float *scores) {
    const number *x = j->x + row * j->width;
    __m512 norm = rms_scale(x, j->width, j->eps), factor = _mm512_set1_ps(j->factor);
    for (long d = 0; d < j->width; d += LANES) {
        __m512 scaled = _mm512_mul_ps(stored(_mm512_mul_ps(read16(x + d), norm)), read16(j->scale + d));
        write16(y + d, _mm512_mul_ps(stored(scaled), factor));
    }
    float most = -INFINITY, total = 0, chosen = 0;
    for (long e = 0; e < j->experts; e++) {
        scores[e] = _mm512_cvtss_f32(stored(_mm512_set1_ps(dot(y, j->proj + e * j->width, j->width))));
        most = scores[e] > most ? scores[e] : most;
    }
    for (long e = 0; e < j->experts; e++) total += scores[e] = expf(scores[e] - most);
    float *weights = j->weights + row * j->choices;
    long *index = j->index + row * j->choices;
    for (long c = 0; c < j->choices; c++) {
        long best = 0;
        for (long e = 1; e < j->experts; e++) best = scores[e] > scores[best] ? e : best;
        weights[c] = scores[best] / total, index[c] = best, chosen += weights[c], scores[best] = -1;
    }
    for (long c = 0; c < j->choices; c++) weights[c] = weights[c] / chosen * j->expert_scale[index[c]];
}

static void router_body(void *data) {
    Router *j = data;
    number *y = space(sizeof(number) * j->width);
    float *scores = space(4 * j->experts);
    for (long task; (task = next_of(&j->next, (j->rows + ROW_SHARE - 1) / ROW_SHARE)) >= 0;)
        for (long row = task * ROW_SHARE; row < least(j->rows, (task + 1) * ROW_SHARE); row++) route(j, row, y, scores);
    free(y), free(scores);
}

void router(Parallel parallel, int threads, const number *x, const number *proj, const number *scale, const float *expert_scale, float *weights, long *index,
            long rows, long width, long experts, long choices, float eps, float factor) {
    Router j = {x, proj, scale, expert_scale, weights, index, rows, width, experts, choices, eps, factor, 0};
    parallel(router_body, &j, threads, 0);
}
