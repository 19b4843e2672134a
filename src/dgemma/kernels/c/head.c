/* The end of the vocabulary head: rows of tanh'd logits turn into probabilities in place, and into what ops/vocab.py tells of them. */
#include "lanes.h"

enum { TILE = 128 }; /* tokens whose p is summed (../sizes.py) */

typedef struct {
    number *p;         /* [rows, vocabulary]: values at first, then 2^(heat * (value - the row's largest)) */
    const float *heat; /* of each row, positive */
    float *masses, *row_sum, *entropy; /* sums of p by TILE and by row; of the row, in nats */
    long *argmax;
    long rows, vocabulary, next;
} Settling;

static void settle_row(const Settling *j, long row) {
    number *p = j->p + row * j->vocabulary;
    __m512 most = _mm512_set1_ps(-INFINITY), heat = _mm512_set1_ps(j->heat[row]), moment = _mm512_setzero_ps();
    for (long at = 0; at < j->vocabulary; at += LANES) most = _mm512_max_ps(read16(p + at), most);
    most = _mm512_set1_ps(_mm512_reduce_max_ps(most));
    long found = j->vocabulary - 1;
    for (long at = 0; at < j->vocabulary; at += LANES) {
        __mmask16 top = _mm512_cmp_ps_mask(read16(p + at), most, _CMP_EQ_OQ);
        if (top) {
            found = at + __builtin_ctz(top);
            break;
        }
    }
    j->argmax[row] = found;
    double all = 0;
    for (long tile = 0; tile < j->vocabulary; tile += TILE) {
        __m512 mass = _mm512_setzero_ps();
        for (long at = tile; at < least(tile + TILE, j->vocabulary); at += LANES) {
            __m512 x = _mm512_mul_ps(_mm512_sub_ps(read16(p + at), most), heat);
            __m512 e = stored(exp2_(x)); /* what counts is what is stored */
            write16(p + at, e);
            mass = _mm512_add_ps(mass, e);
            moment = _mm512_fmadd_ps(e, x, moment);
        }
        float sum = _mm512_reduce_add_ps(mass);
        j->masses[row * ((j->vocabulary + TILE - 1) / TILE) + tile / TILE] = sum, all += sum;
    }
    j->row_sum[row] = all;
    j->entropy[row] = (log2(all) - _mm512_reduce_add_ps(moment) / all) * 0.6931471805599453; /* by hand: torch's log2 of a row depends on how many there are */
}

static void settle_body(void *data) {
    Settling *j = data;
    for (long row; (row = next_of(&j->next, j->rows)) >= 0;) settle_row(j, row);
}

void settle(Parallel parallel, int threads, number *p, const float *heat, float *masses, float *row_sum, float *entropy, long *argmax, long rows, long vocabulary) {
    Settling j = {p, heat, masses, row_sum, entropy, argmax, rows, vocabulary, 0};
    parallel(settle_body, &j, threads, 0);
}
