/* Attention whose scores never leave a core: 128 queries look at 128 keys at a time, with the running maximum and sum of each row.

   Keys and values are put in panels as they come, once per task (3 % of its products). Scores are float32; p is rounded, to bf16 there, before
   it multiplies v, as torch's own attention does. In bf16, 767 keys of width 64, 8 heads, 256 queries on Zen 4: 1.5 ms; torch 3.7.
*/
#include "lanes.h"

enum { QUERIES = 128, KEYS = 128 };

typedef struct {
    const number *q, *k, *v; /* [B, H, Q, K], [B, G, S, K], the last axis dense */
    const uint8_t *visible;  /* [Q, S], or null for everything */
    number *out;             /* [B, Q, H, K] */
    long batch, heads, groups, rows, keys, width; /* in the order that native.py writes them in */
    long q_batch, q_head, q_row, k_batch, k_head, k_row, v_batch, v_head, v_row;
    long next;
} Attention;

/* A thread's memory: some keys and values in panels; a task's queries, and what it has seen so far: the largest score in bits, the sum of
   2^(score - it), and of that times v */
typedef struct { number *k, *v, *q; float *mixed, top[QUERIES], total[QUERIES]; long query[QUERIES]; } Space;

/* which of 16 keys are there, of `count` from `at` on */
static inline __mmask16 there(long at, long count) { return count - at >= LANES ? 0xffff : count > at ? (1u << (count - at)) - 1 : 0; }

/* which of them query `row` sees */
static inline __mmask16 seen(const Attention *j, long row, long first, long at, long count) {
    __mmask16 real = there(at, count);
    if (!j->visible || !real) return real;
    return _mm_mask_test_epi8_mask(real, _mm_maskz_loadu_epi8(real, j->visible + row * j->keys + first + at), _mm_set1_epi8(-1));
}

/* scores of up to eight rows, in bits, -inf where a key is not seen. -> whether one is */
static inline int score(const Attention *j, const Space *s, long r, int rows, long first, long count, long padded, float *scores) {
    int any = 0, hidden = 0; /* most pieces are seen as a whole, or not at all */
    for (long at = 0; at < padded; at += LANES)
        for (int i = 0; i < rows; i++) {
            __mmask16 real = seen(j, s->query[r + i], first, at, count);
            any |= real, hidden |= real ^ there(at, count);
        }
    for (long at = 0; at < padded && any; at += WIDE) {
        Sums sums;
        const number *panel = s->k + at * j->width;
        load(sums, rows, 0, 0);
        strip(rows, s->q + r * j->width, j->width, panel, panel + LANES * WORD, j->width / WORD, sums);
        for (int i = 0; i < rows; i++)
            for (int h = 0; h < 2; h++) {
                __m512 bits = _mm512_mul_ps(sums[i][h], _mm512_set1_ps(1.44269504f));
                __mmask16 real = hidden ? seen(j, s->query[r + i], first, at + h * LANES, count) : there(at + h * LANES, count);
                _mm512_store_ps(scores + i * KEYS + at + h * LANES, _mm512_mask_mov_ps(_mm512_set1_ps(-INFINITY), real, bits));
            }
    }
    return any;
}

/* p = 2^(score - the largest so far) of one row, whose sums are brought to that scale */
static inline void weigh(const float *scores, long padded, number *p, float *mixed, long width, float *top, float *total) {
    __m512 most = _mm512_set1_ps(*top), sum = _mm512_setzero_ps();
    for (long at = 0; at < padded; at += LANES) most = _mm512_max_ps(most, _mm512_load_ps(scores + at));
    float higher = _mm512_reduce_max_ps(most);
    most = _mm512_set1_ps(higher);
    if (higher > *top) {
        __m512 less = exp2_(_mm512_sub_ps(_mm512_set1_ps(*top), most));
        for (long d = 0; d < width; d += LANES) _mm512_store_ps(mixed + d, _mm512_mul_ps(less, _mm512_load_ps(mixed + d)));
        *total *= _mm512_cvtss_f32(less), *top = higher;
    }
    for (long at = 0; at < padded; at += LANES) {
        __m512 e = exp2_(_mm512_sub_ps(_mm512_load_ps(scores + at), most));
        sum = _mm512_add_ps(sum, e);
        write16(p + at, e);
    }
    *total += _mm512_reduce_add_ps(sum);
}

/* what `count` keys and values from `first` on add to up to eight rows */
static inline void attend(const Attention *j, Space *s, long r, int rows, long first, long count, long padded) {
    float scores[ROWS * KEYS] __attribute__((aligned(64)));
    number p[ROWS * KEYS];
    if (!score(j, s, r, rows, first, count, padded, scores)) return;
    for (int i = 0; i < rows; i++)
        weigh(scores + i * KEYS, padded, p + i * KEYS, s->mixed + (r + i) * j->width, j->width, s->top + r + i, s->total + r + i);
    for (long d = 0; d < j->width; d += WIDE) {
        Sums sums;
        const number *panel = s->v + d * padded;
        load(sums, rows, s->mixed + r * j->width + d, j->width);
        strip(rows, p, KEYS, panel, panel + LANES * WORD, padded / WORD, sums);
        store(sums, rows, s->mixed + r * j->width + d, j->width);
    }
}

/* QUERIES rows of one group of query heads, which read the same keys and values */
static void attention_task(const Attention *j, long task, Space *s) {
    long share = j->heads / j->groups, all = share * j->rows, blocks = (all + QUERIES - 1) / QUERIES;
    long group = task / blocks % j->groups, b = task / blocks / j->groups, start = task % blocks * QUERIES, rows = least(all - start, QUERIES);
    const number *k = j->k + b * j->k_batch + group * j->k_head, *v = j->v + b * j->v_batch + group * j->v_head;
    for (long r = 0; r < rows; r++) {
        long head = group * share + (start + r) / j->rows, row = (start + r) % j->rows;
        s->query[r] = row, s->top[r] = -3e38f, s->total[r] = 0;
        memcpy(s->q + r * j->width, j->q + b * j->q_batch + head * j->q_head + row * j->q_row, sizeof(number) * j->width);
    }
    memset(s->mixed, 0, 4 * rows * j->width);
    for (long first = 0; first < j->keys; first += KEYS) {
        long count = least(j->keys - first, KEYS), padded = (count + WIDE - 1) / WIDE * WIDE;
        panels_of_rows(k + first * j->k_row, j->k_row, count, j->width, s->k);
        panels_of_columns(v + first * j->v_row, j->v_row, count, j->width, padded, s->v);
        for (long r = 0; r < rows; r += ROWS) attend(j, s, r, least(rows - r, ROWS), first, count, padded);
    }
    for (long r = 0; r < rows; r++) {
        long head = group * share + (start + r) / j->rows;
        __m512 part = _mm512_set1_ps(1 / s->total[r]);
        number *to = j->out + ((b * j->rows + s->query[r]) * j->heads + head) * j->width;
        for (long d = 0; d < j->width; d += LANES) write16(to + d, _mm512_mul_ps(part, _mm512_load_ps(s->mixed + r * j->width + d)));
    }
}

static void attention_body(void *data) {
    Attention *j = data;
    long share = j->heads / j->groups, tasks = j->batch * j->groups * ((share * j->rows + QUERIES - 1) / QUERIES);
    Space *s = space(sizeof(Space));
    s->mixed = space(j->width * (4 * QUERIES + sizeof(number) * (2 * KEYS + QUERIES)));
    s->k = (number *)(s->mixed + QUERIES * j->width), s->v = s->k + KEYS * j->width, s->q = s->v + KEYS * j->width;
    for (long task; (task = next_of(&j->next, tasks)) >= 0;) attention_task(j, task, s);
    free(s->mixed), free(s);
}

void attention(Parallel parallel, int threads, const number *q, const number *k, const number *v, const uint8_t *visible, number *out, const long *sizes) {
    Attention j = {q, k, v, visible, out, .next = 0};
    memcpy(&j.batch, sizes, 15 * sizeof(long));
    parallel(attention_body, &j, threads, 0);
}
