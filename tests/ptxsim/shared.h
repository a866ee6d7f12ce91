// Shared memory of a block: bounds, what was written, races between barriers, bank conflicts.
//
// For each granule (the kernel's smallest access, 1, 2 or 4 bytes) the last writer and the last reader are kept as
// thread and tick. The block's tick moves on at every synchronisation of anyone. An access of another thread races
// unless a barrier of the block lies between (tick < barrier_tick), or, within a warp, a synchronisation of that warp.
#ifndef PTXSIM_SHARED_H
#define PTXSIM_SHARED_H

#include "tests/ptxsim/exec.h"

// One lane's access: checks it, records it, and says false after a fault. Writes of the bytes that are there already
// do not race with the write of them. `atomic` accesses do not race with each other.
bool ps_shared_read(ps_warp *warp, const ps_insn *insn, int lane, uint64_t address, unsigned size, bool atomic);
bool ps_shared_write(ps_warp *warp, const ps_insn *insn, int lane, uint64_t address, unsigned size, bool atomic,
                     const void *data);
// The destination of a cp.async: nothing may read it before it lands.
bool ps_shared_poison(ps_warp *warp, const ps_insn *insn, int lane, uint64_t address, unsigned size);
// Its bytes arrive, as if the lane wrote them now. Nobody else can have been there.
void ps_shared_land(ps_warp *warp, int lane, uint64_t address, unsigned size, const void *data);
// Counts one request of the active lanes, whose addresses are in shared memory already checked.
void ps_shared_count(ps_warp *warp, uint32_t mask, const uint64_t address[PS_LANES], unsigned size);
// Ticks: a synchronisation of this warp, of all threads of the block.
void ps_shared_sync_warp(ps_warp *warp);
void ps_shared_sync_block(ps_block *block);
void ps_shared_begin(ps_block *block);

#endif
