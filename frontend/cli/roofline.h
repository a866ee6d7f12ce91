// The roofline of a machine (Williams, Waterman and Patterson 2009): how fast work can be that does so many operations
// for every byte it reads, as a plot in text and as SVG.
#ifndef QUERN_CLI_ROOFLINE_H
#define QUERN_CLI_ROOFLINE_H

#include "frontend/quern.h"
#include "runtime/base/str.h"

// `index` is of profile->thread_counts.
void cli_roofline_text(const quern_machine_profile *profile, int index, qn_buf *out);
// A whole SVG document that wants nothing from elsewhere, readable on light and dark grounds.
void cli_roofline_svg(const quern_machine_profile *profile, int index, qn_buf *out);

#endif
