// Where the weights are read from: the file's own pages, or a copy on huge pages.
#ifndef QN_RUNTIME_WEIGHTS_H
#define QN_RUNTIME_WEIGHTS_H

#include "runtime/artifact.h"

typedef enum qn_huge_pages {
  QN_HUGE_PAGES_MADVISE,  // the file's pages, huge where the file system gives them when asked
  QN_HUGE_PAGES_OFF,      // the file's pages, small
  QN_HUGE_PAGES_THP,      // a copy on transparent huge pages
  QN_HUGE_PAGES_HUGETLB,  // a copy on pages that were reserved for it
  QN_HUGE_PAGES_COUNT
} qn_huge_pages;

// Readies artifact->weights for reading. A copy takes the weights' size in memory (and never twice that: the file's
// pages are given back as they are copied), spread over the NUMA nodes, and belongs to the artifact. Errors: NOMEM,
// LIMIT (too few huge pages are reserved: names how many there are and how many are needed), ARGUMENT.
QN_CHECKED qn_status qn_weights_place(qn_artifact *artifact, qn_huge_pages how, qn_diag *diag);

#endif
