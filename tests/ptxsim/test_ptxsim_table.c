// The table of instructions holds together: every modifier of a pattern has a name, and every row is run by a test whose
// results are worked out by hand.
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>

#include "tests/ptxsim/form.h"
#include "tests/ptxsim/support_sim.h"

static const char *const sources[] = {"int", "float", "warp", "mma", "faults", "driver"};

// Is there an instruction `root` with such modifiers, its name no part of a longer word?
static bool runs(const char *text, const char *root, const char *pattern) {
  size_t n = strlen(root);
  for (const char *at = text; (at = strstr(at, root)) != NULL; at += n) {
    bool starts = at == text || !(isalnum((unsigned char)at[-1]) || strchr("_.%", at[-1]) != NULL);
    if (at >= text + 2 && at[-2] == '\\' && at[-1] == 'n') starts = true;  // "\nbar.sync" in a string
    if (!starts || !at[n] || !strchr(".; ", at[n])) continue;
    size_t length = 0;
    while (at[n + length] && (isalnum((unsigned char)at[n + length]) || strchr("._:", at[n + length]))) length++;
    ps_form form = {.insn = NULL};
    if (ps_match_modifiers(pattern, (qn_str){at + n, length}, &form)) return true;
  }
  return false;
}

static char *read_tests(void) {
  size_t size = 0;
  char *all = calloc(1, 1);
  for (size_t k = 0; k < QN_COUNT(sources); k++) {
    char path[128], *text;
    snprintf(path, sizeof path, "tests/ptxsim/test_ptxsim_%s.c", sources[k]);
    FILE *file = fopen(qn_test_source(path), "rb");
    ck_assert_msg(file != NULL, "%s cannot be read", path);
    fseek(file, 0, SEEK_END);
    size_t bytes = (size_t)ftell(file);
    rewind(file);
    text = realloc(all, size + bytes + 1);
    ck_assert_ptr_nonnull(text);
    all = text;
    ck_assert_uint_eq(fread(all + size, 1, bytes, file), bytes);
    size += bytes;
    all[size] = '\0';
    fclose(file);
  }
  return all;
}

static void check_pattern(const char *root, char *pattern) {
  for (char *slot = strtok(pattern, " "); slot != NULL; slot = strtok(NULL, " ")) {
    bool type = slot[0] == ':';
    size_t n = strlen(slot);
    if (slot[n - 1] == '?') slot[n - 1] = '\0';
    char *at = slot + type;
    while (*at != '\0') {
      size_t length = strcspn(at, "|");
      qn_str name = {at, length};
      bool known = type ? ps_type_from(name) != PS_VOID : ps_mod_from(name) != PS_MOD_COUNT;
      qn_check(known, "%s: '%.*s' of its pattern is no %s", root, (int)length, at, type ? "type" : "modifier");
      at += length + (at[length] == '|');
    }
  }
}

START_TEST(test_table) {
  sim_open();
  size_t size = sim.opcodes(NULL, 0) + 1;
  char *table = malloc(size), *tests = read_tests(), *line, *rest;
  ck_assert_ptr_nonnull(table);
  sim.opcodes(table, size);
  int rows = 0, missing = 0;
  for (line = strtok_r(table, "\n", &rest); line != NULL; line = strtok_r(NULL, "\n", &rest)) {
    char *modifiers = strchr(line, '\t'), *operands;
    ck_assert_ptr_nonnull(modifiers);
    *modifiers++ = '\0';
    operands = strchr(modifiers, '\t');
    ck_assert_ptr_nonnull(operands);
    *operands = '\0';
    if (!runs(tests, line, modifiers)) {
      fprintf(stderr, "no test runs '%s.%s'\n", line, modifiers);
      missing++;
    }
    check_pattern(line, modifiers);
    rows++;
  }
  ck_assert_int_gt(rows, 150);
  ck_assert_int_eq(missing, 0);
  free(table);
  free(tests);
}
END_TEST

QN_CASE(table, test_table)
QN_TEST_MAIN(table)
