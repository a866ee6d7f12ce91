// The words in which cpu_features.def speaks of x86.
#ifndef QN_BASE_CPU_FEATURES_H
#define QN_BASE_CPU_FEATURES_H

typedef enum qn_x86_leaf {
  LEAF_1_ECX,
  LEAF_1_EDX,
  LEAF_7_EBX,
  LEAF_7_ECX,
  LEAF_7_EDX,
  LEAF_7_1_EAX,
  LEAF_EXT_ECX,
  LEAF_COUNT
} qn_x86_leaf;
// What the operating system must save for the feature's registers: nothing beyond SSE, YMM, or ZMM and masks.
typedef enum qn_x86_state { STATE_SSE, STATE_YMM, STATE_ZMM } qn_x86_state;

typedef struct qn_x86_feature {
  const char *name;
  qn_x86_leaf leaf;
  unsigned bit;
  qn_x86_state state;
} qn_x86_feature;

#endif
