/* Products with weights in panels, and experts: rows grouped by what they are multiplied with.

   A task is some rows and some panels of a weight, which is read once for all of them. A long sum (p times the embedding) is taken
   piece by piece, with the rows' pieces and the sums so far in a core's own cache.
*/
#include "lanes.h"

/* Rows that share a reading of a weight, and of a large one; what counts as a long sum, and what is taken of it at a time */
enum { BLOCK = 64, MOST = 256, LONG = 2048, PIECE = 512 };

uint32_t source_hash(void) { return SOURCE; } /* of the files this was made from: native.py refuses the functions of others */

/* ---- laying out ---- */

typedef struct { const number *from; number *to; long rows, in, row_step, in_step, next; } Layout;

static void layout_body(void *data) {
    Layout *j = data;
    for (long panel; (panel = next_of(&j->next, j->rows / WIDE)) >= 0;) {
        const number *from = j->from + panel * WIDE * j->row_step;
        number *to = j->to + panel * WIDE * j->in;
        if (j->in_step == 1) panels_of_rows(from, j->row_step, WIDE, j->in, to);
        else panels_of_columns(from, j->in_step, j->in, WIDE, j->in, to); /* a matrix that is another one turned */
    }
}

/* a weight [rows, in], either axis dense, as it is multiplied with */
void lay_out(Parallel parallel, int threads, const number *from, number *to, long rows, long in, long row_step, long in_step) {
    Layout j = {from, to, rows, in, row_step, in_step, 0};
    parallel(layout_body, &j, threads, 0);
}

/* ---- products ---- */

enum { PLAIN, TANH, GATED }; /* what becomes of the sums; GATED: gelu(sums of one weight) * sums of another */

typedef struct { long weight, first, rows; } Group; /* rows of a product that share a weight */

typedef struct {
    const number *x, *weights, *others; /* x: rows of `in`; weights, and for GATED the others: in panels, `apart` from each other */
    const long *source;                 /* the row of x that each row reads, or null: its own */
    const Group *groups;
    number *out;                        /* rows `out_step` apart */
    long count, in, panels, apart, out_step, cuts; /* of groups; of a weight; cuts: parts of a weight that are tasks of their own */
    int kind;
    long next;
} Product;

/* the end of one strip: columns 32 * panel + 16 h .. of a GATED product, or 32 * panel .. */
static inline void finish(const Product *j, Sums sums, int rows, number *to) {
    for (int i = 0; i < rows; i++) {
        number *at = to + i * j->out_step;
        if (j->kind == GATED) write16(at, _mm512_mul_ps(gelu(sums[i][0]), sums[i][1]));
        else
            for (int h = 0; h < 2; h++) write16(at + h * LANES, j->kind == TANH ? tanh_(sums[i][h]) : sums[i][h]);
    }
}

/* Some rows by some panels. gathered: room for the rows, where they do not lie together or are taken in pieces; partial: for their sums so far */
static void product_task(const Product *j, long task, number *gathered, float *partial) {
    Group group = j->groups[task / j->cuts];
    long cut = task % j->cuts, first = j->panels * cut / j->cuts, end = j->panels * (cut + 1) / j->cuts, halves = j->kind == GATED ? 2 : 1;
    long piece = j->in > LONG ? PIECE : j->in, columns = (end - first) * WIDE * halves;
    for (long k = 0; k < j->in; k += piece) {
        long some = least(piece, j->in - k), step = j->in, last = k + some == j->in;
        const number *x = j->x + group.first * j->in;
        if (gathered) {
            for (long r = 0; r < group.rows; r++)
                memcpy(gathered + r * some, j->x + (j->source ? j->source[group.first + r] : group.first + r) * j->in + k, sizeof(number) * some);
            x = gathered, step = some;
        }
        for (long panel = first; panel < end; panel++)
            for (long half = 0; half < halves; half++) {
                long at = group.weight * j->apart + panel * WIDE * j->in + k * WIDE, column = (panel * halves + half) * WIDE - first * halves * WIDE;
                const number *left = j->weights + at + half * LANES * WORD, *right = j->kind == GATED ? j->others + at + half * LANES * WORD : left + LANES * WORD;
                for (long r = 0; r < group.rows; r += ROWS) {
                    int rows = least(ROWS, group.rows - r);
                    Sums sums;
                    load(sums, rows, k ? partial + r * columns + column : 0, columns);
                    strip(rows, x + r * step, step, left, right, some / WORD, sums);
                    if (last) finish(j, sums, rows, j->out + (group.first + r) * j->out_step + panel * WIDE + half * LANES);
                    else store(sums, rows, partial + r * columns + column, columns);
                }
            }
    }
}

static void product_body(void *data) {
    Product *j = data;
    long most = 0, is_long = j->in > LONG;
    for (long g = 0; g < j->count; g++) most = j->groups[g].rows > most ? j->groups[g].rows : most;
    number *gathered = j->source || is_long ? space(sizeof(number) * most * (is_long ? PIECE : j->in)) : 0;
    float *partial = is_long ? space(4 * most * (j->panels / j->cuts + 1) * WIDE * 2) : 0;
    for (long task; (task = next_of(&j->next, j->count * j->cuts)) >= 0;) product_task(j, task, gathered, partial);
    free(gathered), free(partial);
}

/* out [rows, 32 panels] = x [rows, in] times one weight, of which rows of BLOCK share a reading, or of a large one MOST */
void product(Parallel parallel, int threads, const number *x, const number *weight, const number *other, number *out, long rows, long in, long panels,
             long out_step, int kind) {
    long size = in * panels * WIDE >= 1 << 20 ? MOST : BLOCK, count = 0, cuts = panels / 16 > 4 * threads ? panels / 16 : 4 * threads;
    if (in > LONG) cuts = threads; /* each gathers the rows */
    Group *groups = malloc((rows / size + 1) * sizeof(Group));
    for (long r = 0; r < rows; r += size) groups[count++] = (Group){0, r, least(rows - r, size)};
    Product j = {x, weight, other, 0, groups, out, count, in, panels, 0, out_step, least(panels, cuts), kind, 0};
    parallel(product_body, &j, threads, 0);
    free(groups);
}

/* ---- experts ---- */

/* out[r] = sum over its choices c of weights[r, c] * rows[place[r, c]] */
typedef struct { const number *rows; const long *place; const float *weights; number *out; long count, choices, width, next; } Combination;

static void combine_body(void *data) {
    Combination *j = data;
    for (long task; (task = next_of(&j->next, (j->count + 15) / 16)) >= 0;)
        for (long r = task * 16; r < least(j->count, task * 16 + 16); r++)
            for (long d = 0; d < j->width; d += LANES) {
                __m512 sum = _mm512_setzero_ps();
                for (long c = r * j->choices; c < (r + 1) * j->choices; c++)
                    sum = _mm512_fmadd_ps(_mm512_set1_ps(j->weights[c]), read16(j->rows + j->place[c] * j->width + d), sum);
                write16(j->out + r * j->width + d, sum);
            }
}

/* The groups of choices [all] (rows of BLOCK at most, as even as they can be), the row of x of each, and the place of each choice. */
static long group(const long *index, long all, long choices, long experts, Group *groups, long *source, long *place) {
    long *start = calloc(experts + 1, sizeof(long)), count = 0;
    for (long c = 0; c < all; c++) start[index[c] + 1]++;
    for (long e = 0; e < experts; e++) {
        long rows = start[e + 1], parts = (rows + BLOCK - 1) / BLOCK, size = parts ? (rows + parts * ROWS - 1) / (parts * ROWS) * ROWS : 0;
        for (long r = 0; r < rows; r += size) groups[count++] = (Group){e, start[e] + r, least(rows - r, size)};
        start[e + 1] += start[e];
    }
    for (long c = 0; c < all; c++) place[c] = start[index[c]]++, source[place[c]] = c / choices;
    free(start);
    return count;
}

/* sizes: rows, their width D, F, experts, choices of a row; gate, up and down: the weights of all experts, in panels; hidden: room
   for rows * choices * (F + D) numbers */
void experts(Parallel parallel, int threads, const number *x, const number *gate, const number *up, const number *down, const float *weights, const long *index,
             number *out, number *hidden, const long *sizes) {
    long rows = sizes[0], width = sizes[1], inner = sizes[2], all_experts = sizes[3], choices = sizes[4], all = rows * choices;
    Group *groups = malloc((all_experts + all / BLOCK + 1) * sizeof(Group));
    long *source = malloc(2 * all * sizeof(long)), *place = source + all;
    number *chosen = hidden + all * inner;
    long count = group(index, all, choices, all_experts, groups, source, place), cuts = count < 8 * threads ? 4 : 2;
    Product first = {x, gate, up, source, groups, hidden, count, width, inner / WIDE, sizes[5], inner, least(cuts, inner / WIDE), GATED, 0};
    parallel(product_body, &first, threads, 0);
    Product second = {hidden, down, 0, 0, groups, chosen, count, inner, width / WIDE, inner * width, width, least(cuts, width / WIDE), PLAIN, 0};
    parallel(product_body, &second, threads, 0);
    Combination sum = {chosen, place, weights, out, rows, choices, width, 0};
    parallel(combine_body, &sum, threads, 0);
    free(source), free(groups);
}
