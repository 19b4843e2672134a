/* AVX-512 as the C kernels use it, on a processor with AVX2 and FMA alone: each register is two of 256 bits. tests/native.py has the compiler find
   this file before its own <immintrin.h>; nothing that ships includes it. Products of bfloat16 are summed as the processor's own are: float32,
   to nearest. Trap: it is slow in float32 (twice as many registers as there are), so nothing may be timed with it. */
#pragma GCC diagnostic ignored "-Wpsabi"
#include_next <immintrin.h>
#undef _mm512_setr_epi64
#undef _mm512_permutex2var_epi64
#undef _mm512_shuffle_i32x4
#include <math.h>
#include <string.h>

typedef float F16 __attribute__((vector_size(64), may_alias));
typedef int I16 __attribute__((vector_size(64), may_alias));
typedef long long L8 __attribute__((vector_size(64), may_alias));
typedef short H32 __attribute__((vector_size(64), may_alias));
typedef struct { __m256 low, high; } Halves;
#define INLINE static inline __attribute__((always_inline))

#define __m512 F16
#define __m512i I16
#define __m512bh I16
#define __mmask16 unsigned short

INLINE Halves halves(F16 x) { Halves h; memcpy(&h, &x, 64); return h; }
INLINE F16 joined(__m256 low, __m256 high) { F16 x; Halves h = {low, high}; memcpy(&x, &h, 64); return x; }
#define BOTH(name, call) \
    INLINE F16 name(F16 x, F16 y) { Halves a = halves(x), b = halves(y); return joined(call(a.low, b.low), call(a.high, b.high)); }
#define THREE(name, call) \
    INLINE F16 name(F16 x, F16 y, F16 z) { \
        Halves a = halves(x), b = halves(y), c = halves(z); \
        return joined(call(a.low, b.low, c.low), call(a.high, b.high, c.high)); \
    }
BOTH(max16, _mm256_max_ps)
THREE(fmadd16, _mm256_fmadd_ps)
THREE(fmsub16, _mm256_fmsub_ps)
INLINE F16 splat(float x) { __m256 v = _mm256_set1_ps(x); return joined(v, v); }
INLINE I16 isplat(int x) { __m256 v = _mm256_castsi256_ps(_mm256_set1_epi32(x)); return (I16)joined(v, v); }
INLINE F16 load16(const void *from) { const float *f = from; return joined(_mm256_loadu_ps(f), _mm256_loadu_ps(f + 8)); }
INLINE void store16(void *to, F16 x) { Halves h = halves(x); float *f = to; _mm256_storeu_ps(f, h.low), _mm256_storeu_ps(f + 8, h.high); }
INLINE F16 nearest16(F16 x) {
    Halves h = halves(x);
    return joined(_mm256_round_ps(h.low, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC), _mm256_round_ps(h.high, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
/* x * 2^whole, in two factors, so that a result below the normal numbers is rounded once */
INLINE __m256 scalef8(__m256 x, __m256 whole) {
    __m256 within = _mm256_min_ps(_mm256_max_ps(whole, _mm256_set1_ps(-252)), _mm256_set1_ps(252)); /* beyond them all is 0 or infinite */
    __m256i n = _mm256_cvtps_epi32(within), half = _mm256_srai_epi32(n, 1), rest = _mm256_sub_epi32(n, half);
    __m256 a = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(half, _mm256_set1_epi32(127)), 23));
    __m256 b = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(rest, _mm256_set1_epi32(127)), 23));
    __m256 y = _mm256_mul_ps(_mm256_mul_ps(x, a), b);
    return _mm256_blendv_ps(y, whole, _mm256_cmp_ps(whole, whole, _CMP_UNORD_Q)); /* a NaN stays one */
}
BOTH(scalef16, scalef8)
INLINE float sum16(F16 x) {
    Halves h = halves(x);
    __m256 e = _mm256_add_ps(h.low, h.high);
    __m128 q = _mm_add_ps(_mm256_castps256_ps128(e), _mm256_extractf128_ps(e, 1));
    q = _mm_add_ps(q, _mm_movehl_ps(q, q));
    return q[0] + q[1];
}
INLINE float largest16(F16 x) {
    Halves h = halves(x);
    __m256 e = _mm256_max_ps(h.low, h.high);
    __m128 q = _mm_max_ps(_mm256_castps256_ps128(e), _mm256_extractf128_ps(e, 1));
    q = _mm_max_ps(q, _mm_movehl_ps(q, q));
    return q[0] > q[1] ? q[0] : q[1];
}
INLINE unsigned short equal16(F16 x, F16 y) {
    Halves a = halves(x), b = halves(y);
    return _mm256_movemask_ps(_mm256_cmp_ps(a.low, b.low, _CMP_EQ_OQ)) | _mm256_movemask_ps(_mm256_cmp_ps(a.high, b.high, _CMP_EQ_OQ)) << 8;
}
INLINE F16 choose16(F16 x, unsigned short mask, F16 y) {
    for (int i = 0; i < 16; i++) if (mask >> i & 1) x[i] = y[i];
    return x;
}
INLINE I16 widen16(__m256i x) {
    __m256i low = _mm256_cvtepu16_epi32(_mm256_castsi256_si128(x)), high = _mm256_cvtepu16_epi32(_mm256_extracti128_si256(x, 1));
    return (I16)joined(_mm256_castsi256_ps(low), _mm256_castsi256_ps(high));
}
INLINE __m256i round8(__m256 x) { /* float32 to bfloat16 in the low half of each word, to nearest even; below the normal numbers 0 */
    __m256i bits = _mm256_castps_si256(x), sign = _mm256_and_si256(bits, _mm256_set1_epi32((int)0x80000000u));
    __m256i tiny = _mm256_cmpeq_epi32(_mm256_and_si256(bits, _mm256_set1_epi32(0x7f800000)), _mm256_setzero_si256());
    __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    __m256i y = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
    y = _mm256_blendv_epi8(y, sign, tiny);
    y = _mm256_blendv_epi8(y, _mm256_or_si256(bits, _mm256_set1_epi32(0x400000)), nan);
    return _mm256_srli_epi32(y, 16);
}
INLINE __m256i narrow16(F16 x) {
    Halves h = halves(x);
    return _mm256_permute4x64_epi64(_mm256_packus_epi32(round8(h.low), round8(h.high)), 0xd8);
}
/* sum + the two products of each word */
INLINE F16 dot2(F16 sum, I16 a, I16 b) {
    I16 top = isplat((int)0xffff0000u);
    F16 even = fmadd16((F16)(a << 16), (F16)(b << 16), sum);
    return fmadd16((F16)(a & top), (F16)(b & top), even);
}

#define _mm512_set1_ps(x) splat(x)
#define _mm512_set1_epi32(x) isplat(x)
#define _mm512_setzero_ps() splat(0)
#define _mm512_setzero_si512() isplat(0)
#define _mm512_mul_ps(x, y) ((F16)(x) * (F16)(y))
#define _mm512_add_ps(x, y) ((F16)(x) + (F16)(y))
#define _mm512_sub_ps(x, y) ((F16)(x) - (F16)(y))
#define _mm512_div_ps(x, y) ((F16)(x) / (F16)(y))
#define _mm512_max_ps(x, y) max16(x, y)
#define _mm512_fmadd_ps(x, y, z) fmadd16(x, y, z)
#define _mm512_fmsub_ps(x, y, z) fmsub16(x, y, z)
#define _mm512_loadu_ps(p) load16(p)
#define _mm512_load_ps(p) load16(p)
#define _mm512_loadu_si512(p) ((I16)load16(p))
#define _mm512_storeu_ps(p, x) store16(p, x)
#define _mm512_store_ps(p, x) store16(p, x)
#define _mm512_storeu_si512(p, x) store16(p, (F16)(x))
#define _mm512_roundscale_ps(x, how) nearest16(x)
#define _mm512_scalef_ps(x, y) scalef16(x, y)
#define _mm512_reduce_add_ps(x) sum16(x)
#define _mm512_reduce_max_ps(x) largest16(x)
#define _mm512_cvtss_f32(x) ((x)[0])
#define _mm512_cmp_ps_mask(x, y, how) equal16(x, y)
#define _mm512_mask_mov_ps(x, mask, y) choose16(x, mask, y)
#define _mm512_castsi512_ps(x) ((F16)(x))
#define _mm512_cvtepu16_epi32(x) widen16(x)
#define _mm512_slli_epi32(x, n) ((I16)(x) << (n))
#define _mm512_cvtneps_pbh(x) narrow16(x)
#define _mm512_dpbf16_ps(sum, a, b) dot2(sum, a, b)
#define _mm512_setr_epi64(a, b, c, d, e, f, g, h) ((I16)(L8){a, b, c, d, e, f, g, h})
#define _mm512_permutex2var_epi64(x, at, y) ((I16)__builtin_shuffle((L8)(x), (L8)(y), (L8)(at)))
#define _mm512_unpacklo_epi32(x, y) __builtin_shuffle((I16)(x), (I16)(y), (I16){0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29})
#define _mm512_unpackhi_epi32(x, y) __builtin_shuffle((I16)(x), (I16)(y), (I16){2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27, 14, 30, 15, 31})
#define _mm512_unpacklo_epi64(x, y) ((I16)__builtin_shuffle((L8)(x), (L8)(y), (L8){0, 8, 2, 10, 4, 12, 6, 14}))
#define _mm512_unpackhi_epi64(x, y) ((I16)__builtin_shuffle((L8)(x), (L8)(y), (L8){1, 9, 3, 11, 5, 13, 7, 15}))
#define LOW16(n) n, n + 32, n + 1, n + 33, n + 2, n + 34, n + 3, n + 35
#define _mm512_unpacklo_epi16(x, y) ((I16)__builtin_shuffle((H32)(x), (H32)(y), (H32){LOW16(0), LOW16(8), LOW16(16), LOW16(24)}))
#define _mm512_unpackhi_epi16(x, y) ((I16)__builtin_shuffle((H32)(x), (H32)(y), (H32){LOW16(4), LOW16(12), LOW16(20), LOW16(28)}))
/* lanes of 128 bits: two of x, then two of y */
#define _mm512_shuffle_i32x4(x, y, n) \
    ((I16)__builtin_shuffle((L8)(x), (L8)(y), (L8){2 * ((n) & 3), 2 * ((n) & 3) + 1, 2 * ((n) >> 2 & 3), 2 * ((n) >> 2 & 3) + 1, \
        8 + 2 * ((n) >> 4 & 3), 9 + 2 * ((n) >> 4 & 3), 8 + 2 * ((n) >> 6 & 3), 9 + 2 * ((n) >> 6 & 3)}))

/* 16 bytes, of which none past the mask is read */
INLINE __m128i bytes16(unsigned short mask, const void *from) {
    unsigned char bytes[16] = {0};
    for (int i = 0; i < 16; i++) if (mask >> i & 1) bytes[i] = ((const unsigned char *)from)[i];
    return _mm_loadu_si128((const __m128i *)bytes);
}
INLINE unsigned short nonzero16(unsigned short mask, __m128i x) { return mask & ~_mm_movemask_epi8(_mm_cmpeq_epi8(x, _mm_setzero_si128())); }
#define _mm_maskz_loadu_epi8(mask, p) bytes16(mask, p)
#define _mm_mask_test_epi8_mask(mask, x, ones) nonzero16(mask, x)
