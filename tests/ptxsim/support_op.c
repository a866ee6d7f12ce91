// One instruction as a kernel.
#include "tests/ptxsim/support_op.h"

#include <stdio.h>

// Declares a register and loads it from its slot of the lane's case.
static int load_operand(char *out, size_t size, char name, int bits, int slot) {
  if (bits == 0) return 0;
  return snprintf(out, size, ".reg .b%d %%%c; ld.global.b%d %%%c, [%%in+%d];\n", bits, name, bits, name, slot * 8);
}

void op_check(const op_row *row, const char *target) {
  enum { LANES = 32 };
  char body[4096];
  int width = row->d_bits == 1 ? 32 : row->d_bits, n;
  n = snprintf(body, sizeof body,
               ".reg .b64 %%in, %%out, %%at; .reg .b32 %%lane, %%odd, %%all; .reg .pred %%p, %%q, %%on;\n"
               ".reg .b%d %%d;\nld.param.u64 %%in, [in]; ld.param.u64 %%out, [out]; ld.param.u32 %%all, [all];\n"
               "mov.u32 %%lane, %%tid.x; mul.wide.u32 %%at, %%lane, 32; add.s64 %%in, %%in, %%at;\n"
               "mul.wide.u32 %%at, %%lane, 8; add.s64 %%out, %%out, %%at;\n",
               width);
  n += load_operand(body + n, sizeof body - (size_t)n, 'a', row->a_bits, 0);
  n += load_operand(body + n, sizeof body - (size_t)n, 'b', row->b_bits, 1);
  n += load_operand(body + n, sizeof body - (size_t)n, 'c', row->c_bits, 2);
  n += snprintf(
      body + n, sizeof body - (size_t)n,
      "and.b32 %%odd, %%lane, 1; or.b32 %%odd, %%odd, %%all; setp.ne.u32 %%on, %%odd, 0; @!%%on bra skip;\n%s\n",
      row->code);
  if (row->d_bits == 1) n += snprintf(body + n, sizeof body - (size_t)n, "selp.b32 %%d, 1, 0, %%p;\n");
  snprintf(body + n, sizeof body - (size_t)n, "st.global.b%d [%%out], %%d;\nskip: ret;", width);
  uint64_t in[LANES][4], out[LANES];
  for (int l = 0; l < LANES; l++) memcpy(in[l], row->v[l % row->count], sizeof in[l]);
  CUdeviceptr p_in = sim_upload(in, sizeof in), p_out = sim_upload(NULL, sizeof out);
  CUfunction f = sim_kernel(sim_module(target, ".param .u64 in, .param .u64 out, .param .u32 all", body), "k");
  for (uint32_t all = 0; all < 2; all++) {
    sim_ok(sim.fill8(p_out, 0xaa, sizeof out));
    void *params[] = {&p_in, &p_out, &all};
    sim_ok(sim_run(f, 1, LANES, 0, params));
    sim_download(out, p_out, sizeof out);
    uint64_t mask = width == 64 ? UINT64_MAX : (1ull << width) - 1;
    for (int l = 0; l < LANES; l++) {
      const uint64_t *v = row->v[l % row->count];
      bool on = all == 1 || l % 2 == 1;
      uint64_t want = on ? v[3] & mask : 0xaaaaaaaaaaaaaaaaull & mask, got = out[l] & mask;
      qn_check(got == want, "%s: a=%llx b=%llx c=%llx lane %d: got %llx, want %llx", row->code,
               (unsigned long long)v[0], (unsigned long long)v[1], (unsigned long long)v[2], l, (unsigned long long)got,
               (unsigned long long)want);
    }
  }
}
