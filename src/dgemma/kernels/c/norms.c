/* RMS norms, with what follows them: a weight, the residual stream, or a head's turn by its position. One reading, one writing. */
#include "lanes.h"

enum { SHARE = 8192 }; /* elements of a task, or one row */

typedef struct {
    const number *x, *weight, *residual; /* [rows, width], [width], [rows, width]; all but x or null */
    const number *cos, *sin;             /* [positions, width / 2] */
    number *out;
    long rows, width, heads, positions; /* rows that share a position, and follow each other; positions, after which they start again */
    float eps;
    long next;
} Norm;

static void norm_row(const Norm *j, long row) {
    const number *x = j->x + row * j->width;
    number *out = j->out + row * j->width;
    __m512 scale = rms_scale(x, j->width, j->eps);
    for (long d = 0; d < j->width; d += LANES) {
        __m512 y = _mm512_mul_ps(read16(x + d), scale);
        if (j->weight) y = _mm512_mul_ps(y, read16(j->weight + d));
        if (j->residual) y = _mm512_add_ps(stored(y), read16(j->residual + row * j->width + d)); /* rounded before, as torch's form does */
        write16(out + d, y);
    }
    long half = j->width / 2, at = row / j->heads % j->positions * half;
    for (long d = 0; j->cos && d < half; d += LANES) {
        __m512 low = read16(out + d), high = read16(out + half + d), cos = read16(j->cos + at + d), sin = read16(j->sin + at + d);
        write16(out + d, _mm512_fmsub_ps(low, cos, _mm512_mul_ps(high, sin)));
        write16(out + half + d, _mm512_fmadd_ps(high, cos, _mm512_mul_ps(low, sin)));
    }
}

static void norm_body(void *data) {
    Norm *j = data;
    long share = j->width < SHARE ? SHARE / j->width : 1;
    for (long task; (task = next_of(&j->next, (j->rows + share - 1) / share)) >= 0;)
        for (long row = task * share; row < least(j->rows, (task + 1) * share); row++) norm_row(j, row);
}

void norm(Parallel parallel, int threads, const number *x, const number *weight, const number *residual, const number *cos, const number *sin, number *out,
          long rows, long width, long heads, long positions, float eps) {
    Norm j = {x, weight, residual, cos, sin, out, rows, width, heads, positions, eps, 0};
    parallel(norm_body, &j, threads, 0);
}
