// Quantises rows of floats into the file layout of any weight format, driven by the format's table line.
#ifndef QN_IMPORT_QUANTIZE_H
#define QN_IMPORT_QUANTIZE_H

#include "ir/format.h"
#include "runtime/base/diag.h"

// Writes one row of k values (a multiple of format->block_values) as k / block_values blocks of the file's layout.
// Block formats round to nearest with the scale (and min) that ggml's reference quantisers choose, so that files made
// here and there agree; f16 and bf16 round to nearest even, f32 copies. `where` names the tensor in errors.
// FORMAT: a value that the format cannot hold (NaN or infinity in a block format, beyond f16's range where a value or
// a scale is f16). Float formats keep NaN and infinities.
QN_CHECKED qn_status qn_quantize_row(const qn_format *format, int64_t k, const float *row, void *out, const char *where,
                                     qn_diag *diag);

#endif
