/*
 * rope.c - see the header; the llama3 rule keeps short wavelengths, divides long ones by the factor and
 * blends in between.
 */
#include "model/rope.h"

#include <math.h>

static float scale_llama3(float inverse, const struct model_config *config)
{
    double original = (double)config->rope_original_positions;
    double low = config->rope_low_frequency_factor, high = config->rope_high_frequency_factor;
    float factor = (float)config->rope_factor;
    float wavelength = (float)(2 * M_PI) / inverse;

    if (wavelength < (float)(original / high))
        return inverse;
    if (wavelength > (float)(original / low))
        return inverse / factor;
    float blend = ((float)original / wavelength - (float)low) / (float)(high - low);
    return (1 - blend) * inverse / factor + blend * inverse;
}

void rope_inverse_frequencies(float *out, const struct model_config *config)
{
    for (size_t i = 0; i < config->d_head / 2; i++) {
        float exponent = (float)(2 * i) / (float)config->d_head;
        float inverse = 1 / (float)pow((double)(float)config->rope_theta, (double)exponent);
        switch (config->rope_scaling) {
        case ROPE_PLAIN: out[i] = inverse; break;
        case ROPE_LINEAR: out[i] = inverse / (float)config->rope_factor; break;
        case ROPE_LLAMA3: out[i] = scale_llama3(inverse, config); break;
        }
    }
}

void rope_angles(float *cosine, float *sine, const float *inverse_frequency, size_t n, size_t position)
{
    for (size_t i = 0; i < n; i++) {
        float angle = (float)position * inverse_frequency[i];
        cosine[i] = (float)cos((double)angle);
        sine[i] = (float)sin((double)angle);
    }
}
