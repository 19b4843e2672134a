/* What the .c files share: numbers in 16 lanes of AVX-512, and the strip of a product. Everything is compiled twice, for float32 and, with
   -DBF16, for bfloat16 on processors that have its dot product; sums are float32 in both.

   Everything rests on `strip`: eight rows times 32 columns, sixteen registers of sums, that read a matrix **in panels**: 32 columns side by
   side, of bfloat16 two neighbours along the summed axis together, so that one instruction adds 32 products (64 rows by 512 x 512, Zen 4,
   2 threads: 416 GFLOP/s; oneDNN 292). Every function that native.py calls is one or a few loops over tasks, which threads take as they come.
   A row's numbers depend on nothing but that row: each sum runs along its axis in one order, whatever else is in the batch.
   Nothing here knows torch: pointers, sizes and strides (in elements) come from native.py, threads from the OpenMP that torch has loaded.
   Trap: nothing here checks a size; native.py does.
*/
#include <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#ifdef BF16
typedef uint16_t number;
enum { WORD = 2 }; /* numbers in 32 bits, which lie together in a panel */
#else
typedef float number;
enum { WORD = 1 };
#endif
typedef void (*Parallel)(void (*body)(void *), void *data, unsigned threads, unsigned flags); /* GOMP_parallel */

enum { ROWS = 8, WIDE = 32, LANES = 16 }; /* rows and columns of a strip; float32 in a register */

static inline long least(long a, long b) { return a < b ? a : b; }
static inline void *space(long bytes) { return aligned_alloc(64, (bytes + 63) / 64 * 64); }

/* the next task of a job, or -1 */
static inline long next_of(long *counter, long tasks) {
    long task = __atomic_fetch_add(counter, 1, __ATOMIC_RELAXED);
    return task < tasks ? task : -1;
}

/* ---- arithmetic on 16 lanes ---- */

#ifdef BF16
static inline __m512 widened(__m256i x) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16)); }
static inline __m512 read16(const number *from) { return widened(_mm256_loadu_si256((const __m256i *)from)); }
static inline void write16(number *to, __m512 x) { _mm256_storeu_si256((__m256i *)to, (__m256i)_mm512_cvtneps_pbh(x)); }
static inline __m512 stored(__m512 x) { return widened((__m256i)_mm512_cvtneps_pbh(x)); } /* x as it comes back from memory */
static inline __m512 add_products(__m512 sum, __m512i a, __m512i b) { return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b); }
#else
static inline __m512 read16(const number *from) { return _mm512_loadu_ps(from); }
static inline void write16(number *to, __m512 x) { _mm512_storeu_ps(to, x); }
static inline __m512 stored(__m512 x) { return x; }
static inline __m512 add_products(__m512 sum, __m512i a, __m512i b) { return _mm512_fmadd_ps(_mm512_castsi512_ps(a), _mm512_castsi512_ps(b), sum); }
#endif

/* 2^x to 3e-7 of it; 0 below -200. A NaN stays one: max gives its second argument where either is. */
static inline __m512 exp2_(__m512 x) {
    x = _mm512_max_ps(_mm512_set1_ps(-200), x);
    __m512 whole = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC), f = _mm512_sub_ps(x, whole);
    __m512 p = _mm512_set1_ps(1.33953000e-3f);
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(9.61843729e-3f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(5.55036291e-2f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(2.40226462e-1f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(6.93147182e-1f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(1));
    return _mm512_scalef_ps(p, whole);
}

/* 1 - 2 / (1 + e^2x) */
static inline __m512 tanh_(__m512 x) {
    __m512 one = _mm512_set1_ps(1), e = exp2_(_mm512_mul_ps(x, _mm512_set1_ps(2.88539008f)));
    return _mm512_sub_ps(one, _mm512_div_ps(_mm512_set1_ps(2), _mm512_add_ps(one, e)));
}

/* 1 / sqrt(mean of x^2 + eps) of a row */
static inline __m512 rms_scale(const number *x, long width, float eps) {
    __m512 sum = _mm512_setzero_ps();
    for (long d = 0; d < width; d += LANES) sum = _mm512_fmadd_ps(read16(x + d), read16(x + d), sum);
    return _mm512_set1_ps(1 / sqrtf(_mm512_reduce_add_ps(sum) / width + eps));
}

/* GELU in its tanh form */
static inline __m512 gelu(__m512 x) {
    __m512 cubic = _mm512_fmadd_ps(_mm512_mul_ps(x, x), _mm512_set1_ps(0.044715f), _mm512_set1_ps(1));
    __m512 inner = _mm512_mul_ps(_mm512_mul_ps(x, _mm512_set1_ps(0.79788456f)), cubic);
    return _mm512_mul_ps(_mm512_mul_ps(x, _mm512_set1_ps(0.5f)), _mm512_add_ps(_mm512_set1_ps(1), tanh_(inner)));
}

/* ---- the strip ---- */

typedef __m512 Sums[ROWS][2];

static inline __attribute__((always_inline)) void fixed_strip(int rows, const number *x, long step, const number *left, const number *right, long words, Sums sums) {
    for (long w = 0; w < words; w++) {
        __m512i l = _mm512_loadu_si512(left + w * WORD * WIDE), r = _mm512_loadu_si512(right + w * WORD * WIDE);
#pragma GCC unroll 8
        for (int i = 0; i < rows; i++) {
            __m512i word = _mm512_set1_epi32(((const int *)(x + i * step))[w]);
            sums[i][0] = add_products(sums[i][0], word, l);
            sums[i][1] = add_products(sums[i][1], word, r);
        }
    }
}

/* sums += `rows` rows of x, `step` apart, times 16 columns of one panel and 16 of the same or another one */
static inline __attribute__((always_inline)) void strip(int rows, const number *x, long step, const number *left, const number *right, long words, Sums sums) {
    switch (rows) { /* each number of rows is machine code of its own, so that sums stay in registers */
#define CASE(n) case n: fixed_strip(n, x, step, left, right, words, sums); break;
        CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7) CASE(8)
    }
}

static inline void load(Sums sums, int rows, const float *from, long step) {
    for (int i = 0; i < ROWS; i++)
        for (int h = 0; h < 2; h++) sums[i][h] = from && i < rows ? _mm512_loadu_ps(from + i * step + h * LANES) : _mm512_setzero_ps();
}

static inline void store(Sums sums, int rows, float *to, long step) {
    for (int i = 0; i < rows; i++)
        for (int h = 0; h < 2; h++) _mm512_storeu_ps(to + i * step + h * LANES, sums[i][h]);
}

/* ---- panels ---- */

/* 16 rows of 16 32-bit words, turned; rows that are not there are 0 */
static inline void turn(const number *from, long step, int rows, uint32_t *to, long stride) {
    __m512i a[16], b[16];
    for (int i = 0; i < 16; i++) a[i] = i < rows ? _mm512_loadu_si512(from + i * step) : _mm512_setzero_si512();
    for (int i = 0; i < 16; i += 2) b[i] = _mm512_unpacklo_epi32(a[i], a[i + 1]), b[i + 1] = _mm512_unpackhi_epi32(a[i], a[i + 1]);
    for (int i = 0; i < 16; i += 4)
        for (int h = 0; h < 2; h++)
            a[i + 2 * h] = _mm512_unpacklo_epi64(b[i + h], b[i + h + 2]), a[i + 2 * h + 1] = _mm512_unpackhi_epi64(b[i + h], b[i + h + 2]);
    for (int c = 0; c < 4; c++) { /* a[4 g + c] holds words c, 4 + c, 8 + c, 12 + c of rows 4 g .. 4 g + 3 */
        __m512i even0 = _mm512_shuffle_i32x4(a[c], a[4 + c], 0x88), odd0 = _mm512_shuffle_i32x4(a[c], a[4 + c], 0xdd);
        __m512i even1 = _mm512_shuffle_i32x4(a[8 + c], a[12 + c], 0x88), odd1 = _mm512_shuffle_i32x4(a[8 + c], a[12 + c], 0xdd);
        _mm512_storeu_si512(to + c * stride, _mm512_shuffle_i32x4(even0, even1, 0x88));
        _mm512_storeu_si512(to + (4 + c) * stride, _mm512_shuffle_i32x4(odd0, odd1, 0x88));
        _mm512_storeu_si512(to + (8 + c) * stride, _mm512_shuffle_i32x4(even0, even1, 0xdd));
        _mm512_storeu_si512(to + (12 + c) * stride, _mm512_shuffle_i32x4(odd0, odd1, 0xdd));
    }
}

/* rows [count, width], each a column of the product, as panels; the width, along which is summed, is a multiple of 32 */
static inline void panels_of_rows(const number *from, long step, long count, long width, number *to) {
    for (long row = 0; row < count; row += LANES)
        for (long d = 0; d < width; d += LANES * WORD)
            turn(from + row * step + d, step, least(count - row, LANES), (uint32_t *)(to + row / WIDE * WIDE * width + d * WIDE) + row % WIDE, WIDE);
}

/* rows [count, width], which are summed over, as panels of 32 of the width; up to `padded` rows, those that are not there are 0 */
static inline void panels_of_columns(const number *from, long step, long count, long width, long padded, number *to) {
    for (long row = 0; row < padded; row += WORD)
        for (long d = 0; d < width; d += WIDE) {
            number *at = to + d / WIDE * WIDE * padded + row * WIDE;
#ifdef BF16
            const __m512i first = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11), second = _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15);
            __m512i a = row < count ? _mm512_loadu_si512(from + row * step + d) : _mm512_setzero_si512();
            __m512i b = row + 1 < count ? _mm512_loadu_si512(from + (row + 1) * step + d) : _mm512_setzero_si512();
            __m512i low = _mm512_unpacklo_epi16(a, b), high = _mm512_unpackhi_epi16(a, b);
            _mm512_storeu_si512(at, _mm512_permutex2var_epi64(low, first, high));
            _mm512_storeu_si512(at + WIDE, _mm512_permutex2var_epi64(low, second, high));
#else
            for (long h = 0; h < WIDE; h += LANES) write16(at + h, row < count ? read16(from + row * step + d + h) : _mm512_setzero_ps());
#endif
        }
}
