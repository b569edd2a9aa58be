/*
 * polynomial.h - exp, tanh, erf and what is made of them, written once for every instruction set.
 *
 * The including file defines first the type `vec` (a float in reference.c, 16 of them elsewhere) and, each
 * exactly one correctly rounded operation per element, in round-to-nearest:
 *
 *     v_set(c)  v_add(a, b)  v_sub(a, b)  v_mul(a, b)  v_div(a, b)  v_fma(a, b, c) = a * b + c
 *     v_max(a, b) = a > b ? a : b    v_min(a, b) = a < b ? a : b      (so a NaN in b comes through)
 *     v_abs(a)    v_copy_sign(magnitude, sign)    v_select_less(a, b, yes, no) = a < b ? yes : no
 *     v_scale(a, t): a * 2^n where t = n + ROUND_TO_INTEGER, as two products by powers of two
 *
 * The same operations in the same order give the same bits. Measured by check_kernels against long double:
 * exp within 1 ulp where the result is normal, tanh and erf within 1e-7 absolutely.
 */
#ifndef KERNELS_POLYNOMIAL_H
#define KERNELS_POLYNOMIAL_H

/* Adding 1.5 * 2^23 leaves no bits for a fraction: the sum's low bits are the nearest integer. */
#define ROUND_TO_INTEGER 12582912.0f

/* 2^n * e^r with n = round(x / ln 2) and |r| <= ln(2) / 2; ln 2 in two parts so that r is exact. e^r is
   1 + r + r^2 q(r), q the minimax polynomial (relative error 5e-11). From -104 down the result is 0, from 89
   up infinity. */
static inline vec v_exp(vec x)
{
    x = v_min(v_set(89.0f), v_max(v_set(-104.0f), x));
    vec t = v_fma(x, v_set(1.44269504f), v_set(ROUND_TO_INTEGER));
    vec n = v_sub(t, v_set(ROUND_TO_INTEGER));
    vec r = v_fma(n, v_set(-0x1.62e4p-1f), x);
    r = v_fma(n, v_set(-0x1.7f7d1cp-20f), r);

    vec q = v_set(0.000197902438f);
    q = v_fma(q, r, v_set(0.00139447581f));
    q = v_fma(q, r, v_set(0.00833349768f));
    q = v_fma(q, r, v_set(0.0416662954f));
    q = v_fma(q, r, v_set(0.166666657f));
    q = v_fma(q, r, v_set(0.5f));
    q = v_fma(v_mul(q, r), r, r);
    return v_scale(v_add(q, v_set(1.0f)), t);
}

/* e^x for x <= 0, below -87 exactly 0; relative error 2e-7. In single steps, each rounded, since that is what draws were made with. */
static inline vec v_weight(vec x)
{
    vec clamped = v_max(x, v_set(-87.0f));
    vec t = v_add(v_mul(clamped, v_set(1.44269504f)), v_set(ROUND_TO_INTEGER));
    vec n = v_sub(t, v_set(ROUND_TO_INTEGER));
    vec r = v_add(v_sub(clamped, v_mul(n, v_set(0.693359375f))), v_mul(n, v_set(2.12194440e-4f)));

    vec p = v_set(1.0f / 720);
    p = v_add(v_mul(p, r), v_set(1.0f / 120));
    p = v_add(v_mul(p, r), v_set(1.0f / 24));
    p = v_add(v_mul(p, r), v_set(1.0f / 6));
    p = v_add(v_mul(p, r), v_set(0.5f));
    p = v_add(v_add(v_mul(v_mul(p, r), r), r), v_set(1.0f));
    return v_select_less(v_set(-87.0f), x, v_scale(p, t), v_set(0.0f));
}

/* Near 0 x + x^3 p(x^2) (minimax on [0, 0.63]); beyond it 1 - 2 / (e^2|x| + 1). */
static inline vec v_tanh(vec x)
{
    vec magnitude = v_abs(x), square = v_mul(x, x);
    vec p = v_set(-0.00567931309f);
    p = v_fma(p, square, v_set(0.0206181314f));
    p = v_fma(p, square, v_set(-0.0537340045f));
    p = v_fma(p, square, v_set(0.133313835f));
    p = v_fma(p, square, v_set(-0.333332807f));
    vec near = v_fma(v_mul(p, square), magnitude, magnitude);

    vec e = v_exp(v_add(magnitude, magnitude));
    vec far = v_sub(v_set(1.0f), v_div(v_set(2.0f), v_add(e, v_set(1.0f))));
    return v_copy_sign(v_select_less(magnitude, v_set(0.625f), near, far), x);
}

/* Up to 1 x + x p(x^2); beyond it 1 - e^q(|x|), where q approximates log(erfc) on [1, 4], whose ends are far
   enough out: erf(4) rounds to 1. */
static inline vec v_erf(vec x)
{
    vec magnitude = v_abs(x), square = v_mul(x, x);
    vec p = v_set(7.88915568e-05f);
    p = v_fma(p, square, v_set(-0.000802085269f));
    p = v_fma(p, square, v_set(0.00518953661f));
    p = v_fma(p, square, v_set(-0.0268544462f));
    p = v_fma(p, square, v_set(0.112836003f));
    p = v_fma(p, square, v_set(-0.37612626f));
    p = v_fma(p, square, v_set(0.128379166f));
    vec near = v_fma(p, magnitude, magnitude);

    vec a = v_min(v_set(4.0f), magnitude);
    vec q = v_set(-2.16867593e-05f);
    q = v_fma(q, a, v_set(0.000441335258f));
    q = v_fma(q, a, v_set(-0.00420455588f));
    q = v_fma(q, a, v_set(0.0252082404f));
    q = v_fma(q, a, v_set(-0.108418547f));
    q = v_fma(q, a, v_set(-0.633219898f));
    q = v_fma(q, a, v_set(-1.12957835f));
    q = v_fma(q, a, v_set(0.000188036909f));
    vec far = v_sub(v_set(1.0f), v_exp(q));
    return v_copy_sign(v_select_less(magnitude, v_set(1.0f), near, far), x);
}

/* x / (1 + e^-x) */
static inline vec v_silu(vec x)
{
    vec e = v_exp(v_sub(v_set(0.0f), x));
    return v_div(x, v_add(v_set(1.0f), e));
}

/* x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3))) */
static inline vec v_gelu_tanh(vec x)
{
    vec cubic = v_mul(v_mul(x, x), v_set(0.044715f));
    vec inner = v_mul(v_fma(cubic, x, x), v_set(0.797884561f));
    return v_mul(v_mul(x, v_set(0.5f)), v_add(v_set(1.0f), v_tanh(inner)));
}

/* x / 2 * (1 + erf(x / sqrt(2))) */
static inline vec v_gelu_erf(vec x)
{
    vec e = v_erf(v_mul(x, v_set(0.707106781f)));
    return v_mul(v_mul(x, v_set(0.5f)), v_add(v_set(1.0f), e));
}

/* The larger of x and 0. Adding +0 turns -0 into +0; a NaN stays. */
static inline vec v_relu(vec x)
{
    return v_add(v_max(v_set(0.0f), x), v_set(0.0f));
}

#endif
