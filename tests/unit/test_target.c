// Targets by name: canonical names, what they require, and errors that list what is known.
#include <stdio.h>

#include "codegen/cpu/host.h"
#include "codegen/target.h"
#include "tests/support/test.h"

static qn_target parse(const char *text) {
  qn_target target;
  qn_diag diag = {0};
  qn_assert_ok(&diag, qn_target_parse(text, &target, &diag));
  return target;
}

START_TEST(names_become_canonical) {
  static const struct {
    const char *text, *name, *required;
    int vector_bytes, vector_registers;
    qn_dot4_kind dot4;
  } cases[] = {
      {"x86-64-v2", "x86-64-v2", "sse4.2", 16, 16, QN_DOT4_MADD16},
      {"x86-64-v3", "x86-64-v3", "sse4.2,avx2,fma,f16c,bmi2", 32, 16, QN_DOT4_MADD16},
      {"haswell", "x86-64-v3", "sse4.2,avx2,fma,f16c,bmi2", 32, 16, QN_DOT4_MADD16},
      {"x86-64-v3+avxvnni", "x86-64-v3+avxvnni", "sse4.2,avx2,fma,f16c,bmi2,avxvnni", 32, 16, QN_DOT4_VPDPBUSD256},
      {"alderlake", "x86-64-v3+avxvnni", "sse4.2,avx2,fma,f16c,bmi2,avxvnni", 32, 16, QN_DOT4_VPDPBUSD256},
      {"x86-64-v4", "x86-64-v4", "sse4.2,avx2,fma,f16c,bmi2,avx512f,avx512bw,avx512dq,avx512vl", 64, 32,
       QN_DOT4_MADD16},
      {"x86-64-v4+vnni", "x86-64-v4+avx512vnni",
       "sse4.2,avx2,fma,f16c,bmi2,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni", 64, 32, QN_DOT4_VPDPBUSD512},
      {"znver4", "x86-64-v4+avx512vnni", "sse4.2,avx2,fma,f16c,bmi2,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni", 64,
       32, QN_DOT4_VPDPBUSD512},
      {"icelake-server-avx512vnni", "x86-64-v4", "sse4.2,avx2,fma,f16c,bmi2,avx512f,avx512bw,avx512dq,avx512vl", 64, 32,
       QN_DOT4_MADD16},
      // Taking avx512f away takes all that needs it; adding a feature adds what it needs.
      {"znver5-avx512f", "x86-64-v3+avxvnni", "sse4.2,avx2,fma,f16c,bmi2,avxvnni", 32, 16, QN_DOT4_VPDPBUSD256},
      {"x86-64-v2+avx2", "x86-64-v2+avx2", "sse4.2,avx2", 32, 16, QN_DOT4_MADD16},
      {"x86-64-v4-avx512vl", "x86-64-v3+avx512f+avx512bw+avx512dq",
       "sse4.2,avx2,fma,f16c,bmi2,avx512f,avx512bw,avx512dq", 32, 16, QN_DOT4_MADD16},
      {"aarch64", "aarch64", "neon", 16, 32, QN_DOT4_AARCH64},
      {"aarch64+i8mm+dotprod", "aarch64+dotprod+i8mm", "neon,dotprod,i8mm", 16, 32, QN_DOT4_AARCH64},
      {"neoverse-n1", "aarch64+dotprod", "neon,dotprod", 16, 32, QN_DOT4_AARCH64},
      {"riscv64", "riscv64", "m,a,f,d,c", 4, 32, QN_DOT4_PLAIN},
      {"sifive-x280", "riscv64+v", "m,a,f,d,c,v", 16, 32, QN_DOT4_PLAIN},
      {"riscv64+v-v", "riscv64", "m,a,f,d,c", 4, 32, QN_DOT4_PLAIN},
  };
  for (size_t i = 0; i < QN_COUNT(cases); i++) {
    qn_target target = parse(cases[i].text);
    ck_assert_str_eq(target.name, cases[i].name);
    ck_assert_str_eq(target.required, cases[i].required);
    ck_assert_int_eq(target.vector_bytes, cases[i].vector_bytes);
    ck_assert_int_eq(target.vector_registers, cases[i].vector_registers);
    ck_assert_int_eq(target.dot4, cases[i].dot4);
    qn_target again = parse(target.name);
    ck_assert_str_eq(again.name, target.name);
  }
}
END_TEST

// What is known of a CPU goes by its name, not by what code for it may use.
START_TEST(cpus_have_ways_of_their_own) {
  ck_assert(parse("znver4").reads_alone && parse("znver4-avx512vnni").reads_alone);
  ck_assert(!parse("x86-64-v4+vnni").reads_alone && !parse("icelake-server").reads_alone);
  char *cpu = qn_host_cpu();
  ck_assert_ptr_nonnull(cpu);
  ck_assert(parse("host").reads_alone == (strcmp(cpu, "znver4") == 0));
  qn_host_features_free(cpu);
}
END_TEST

START_TEST(host_is_named_and_runs_here) {
  qn_target target = parse("host");
  char missing[512];
  ck_assert(strncmp(target.name, "host", 4) != 0);
  qn_target again = parse(target.name);
  ck_assert_str_eq(again.features, target.features);
  ck_assert_msg(qn_host_runs(&target, missing, sizeof missing), "missing %s", missing);
  qn_arch arch;
  ck_assert(qn_host_arch(&arch));
  qn_target other = parse(arch == QN_ARCH_X86_64 ? "aarch64" : "x86-64-v2");
  ck_assert(!qn_host_runs(&other, missing, sizeof missing));
  ck_assert_str_eq(missing, arch == QN_ARCH_X86_64 ? "aarch64" : "x86-64");
}
END_TEST

START_TEST(missing_features_are_named) {
  char missing[512];
  qn_target target = parse("host");
  strcat(target.required, ",avx10.9,telepathy");
  ck_assert(!qn_host_runs(&target, missing, sizeof missing));
  ck_assert_str_eq(missing, "avx10.9,telepathy");
  ck_assert(!qn_host_runs(&target, NULL, 0));
}
END_TEST

START_TEST(features_are_found_in_lists) {
  const char *list = "+avx512f,-avx512vl,+avx2";
  ck_assert(qn_host_feature_in(list, "avx2", 4));
  ck_assert(qn_host_feature_in(list, "avx512f", 7));
  ck_assert(!qn_host_feature_in(list, "avx512vl", 8));
  ck_assert(!qn_host_feature_in(list, "avx", 3));
  ck_assert(!qn_host_feature_in(list, "avx512", 6));
  ck_assert(!qn_host_feature_in(NULL, "avx", 3));
}
END_TEST

START_TEST(errors_list_what_is_known) {
  qn_target target;
  static const struct {
    const char *text;
    qn_status status;
    const char *says;
  } cases[] = {
      {"", QN_ERR_ARGUMENT, "x86-64-v3"},
      {"x86-64-v9", QN_ERR_ARGUMENT, "'x86-64-v9' does not start with a known name; known are host, x86-64-v2"},
      {"x86-64-v3x", QN_ERR_ARGUMENT, "x86-64-v3x"},
      {"znver", QN_ERR_ARGUMENT, "neoverse-n1"},
      {"hostess", QN_ERR_ARGUMENT, "hostess"},
      {"x86-64-v3+avx1024", QN_ERR_ARGUMENT, "unknown feature 'avx1024'"},
      {"x86-64-v3+avx1024", QN_ERR_ARGUMENT, "avx512vnni"},
      {"x86-64-v3+", QN_ERR_ARGUMENT, "unknown feature ''"},
      {"x86-64-v3+dotprod", QN_ERR_ARGUMENT, "unknown feature 'dotprod'"},
      {"aarch64+vnni", QN_ERR_ARGUMENT, "dotprod, i8mm"},
      {"x86-64-v3-sse4.2", QN_ERR_UNSUPPORTED, "sse4.2"},
      {"aarch64-neon", QN_ERR_UNSUPPORTED, "neon"},
      {"riscv64-f", QN_ERR_UNSUPPORTED, "m, a, f, d and c"},
      {"riscv64+neon", QN_ERR_ARGUMENT, "m, a, f, d, c, v"},
      {"cuda:sm_70", QN_ERR_ARGUMENT, "'cuda:sm_70' is no GPU that quern compiles for; it compiles for cuda:sm_80, "},
      {"cuda", QN_ERR_ARGUMENT, "'cuda' is no GPU"},
      {"cuda:sm_90+vnni", QN_ERR_ARGUMENT, "cuda:sm_90, cuda:sm_100, cuda:sm_120; a chip runs"},
      {"gpu", QN_ERR_ARGUMENT, "spacemit-x60, cuda:sm_80"},
  };
  for (size_t i = 0; i < QN_COUNT(cases); i++) {
    qn_diag diag = {0};
    qn_assert_fails(&diag, cases[i].status, cases[i].says, qn_target_parse(cases[i].text, &target, &diag));
  }
}
END_TEST

START_TEST(gpus_are_chips) {
  static const int chips[] = {80, 90, 100, 120};
  for (size_t i = 0; i < QN_COUNT(chips); i++) {
    char name[32], missing[32];
    snprintf(name, sizeof name, "cuda:sm_%d", chips[i]);
    qn_target target = parse(name);
    ck_assert(qn_target_is_gpu(&target) && target.sm == chips[i] && target.shared_bytes >= 99 << 10);
    ck_assert_str_eq(target.name, name);
    ck_assert_str_eq(target.required, name + strlen("cuda:"));
    ck_assert(!qn_host_runs(&target, missing, sizeof missing));
    ck_assert_str_eq(missing, "a GPU");
  }
  qn_target host = parse("host");
  ck_assert(!qn_target_is_gpu(&host));
}
END_TEST

START_TEST(the_list_names_every_target) {
  qn_buf text;
  qn_buf_init(&text, qn_test_allocator());
  qn_target_list(&text);
  static const char *const names[] = {"host",   "x86-64-v2",  "x86-64-v4", "aarch64",
                                      "znver4", "avx512vnni", "i8mm",      "cuda:sm_120"};
  for (size_t i = 0; i < QN_COUNT(names); i++) ck_assert_ptr_nonnull(strstr(qn_buf_text(&text), names[i]));
  qn_buf_deinit(&text);
}
END_TEST

QN_CASE(targets, names_become_canonical, cpus_have_ways_of_their_own, host_is_named_and_runs_here,
        missing_features_are_named, features_are_found_in_lists, errors_list_what_is_known, gpus_are_chips, the_list_names_every_target)

QN_TEST_MAIN(targets)
