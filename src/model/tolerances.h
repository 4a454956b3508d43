// How far results may lie from the reference's, and why. Tests of every layer share these.
#pragma once

namespace videre::tolerance {

/// float32 against the reference's float32, max abs over the standard deviation of the reference:
/// sums of some hundred products in another order, through every layer, come to about 1e-5; a
/// wrong epsilon, a missing rounding or a swapped axis comes to 1e-3 and more.
inline constexpr double kFloat32 = 2e-4;

/// bfloat16 against the float32 reference: 8 bits of mantissa leave 2^-9 a rounding, some dozen
/// roundings in a row; random errors keep the cosine above this, a wrong op does not.
inline constexpr double kBFloat16Cosine = 0.9995;

/// Quantised weights with float32 activations against the reference's dequantised weights:
/// norm of the difference over norm of the reference. Only the order of sums differs, so 1 % is
/// generous; a wrong scale or nibble order is far beyond it.
inline constexpr double kQuantizedRelative = 0.01;

/// The same prompt computed in other pieces or in other company, float32, max abs over standard
/// deviation: products are summed in another order inside one chunk or one matrix, nothing else.
inline constexpr double kSamePrompt = 1e-5;

/// Greedy tokens are compared where best and second logit are further apart than noise, in
/// standard deviations of the logits.
inline constexpr double kGreedyMarginFloat32 = 1e-3;
inline constexpr double kGreedyMarginBFloat16 = 0.1;

/// EVS masks are compared where the dissimilarities at the cut are further apart than this.
inline constexpr double kEvsGap = 1e-5;

}  // namespace videre::tolerance
