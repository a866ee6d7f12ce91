// What other instructions that touch memory (atomics, cp.async, ldmatrix) share with loads and stores.
#ifndef PTXSIM_EXEC_MEM_H
#define PTXSIM_EXEC_MEM_H

#include "tests/ptxsim/exec.h"

// The addresses of all lanes, by the address operand that is source `source`, the instruction's offset added.
void ps_addresses(const ps_warp *warp, const ps_insn *insn, int source, uint64_t out[PS_LANES]);
// Checks and counts a request to global memory; where each lane's bytes are. False after a fault. bytes is 1, 2, 4, 8,
// 16 or 32. A write counts as done.
bool ps_global_lanes(ps_warp *warp, const ps_insn *insn, uint32_t mask, const uint64_t address[PS_LANES],
                     unsigned bytes, bool write, uint8_t *host[PS_LANES]);

#endif
