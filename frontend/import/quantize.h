// Quantises rows of floats into the file layout of any weight format, driven by the format's table line.
#ifndef QN_IMPORT_QUANTIZE_H
#define QN_IMPORT_QUANTIZE_H

#include "ir/format.h"
#include "runtime/base/diag.h"

// What rows of k values become where `format` is asked for: itself; where k is no multiple of its block, the format
// of smaller blocks that loses least; F16 where none of those fits.
const qn_format *qn_quantize_format_for(const qn_format *format, int64_t k);

// Writes one row of k values (a multiple of format->block_values) as k / block_values blocks of the file's layout.
// Q8_0 takes the plain scale, as ggml's does, so that files made here and there agree; the scales and minima of other
// block formats are searched for, by the squared error, and are a function of the block's values alone. f16 and bf16
// round to nearest even, f32 copies. `where` names the tensor in errors.
// ARGUMENT: k is no multiple of the block. FORMAT: a value that the format
// cannot hold (NaN or infinity in a block format, beyond f16's range where a value or a scale is f16). Float formats
// keep NaN and infinities.
QN_CHECKED qn_status qn_quantize_row(const qn_format *format, int64_t k, const float *row, void *out, const char *where,
                                     qn_diag *diag);

#endif
