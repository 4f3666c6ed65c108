// What the kernel of Linux does and POSIX does not ask for, each with what stands in for it elsewhere. Two files have
// these functions: system_linux.cc, and system_portable.cc, which keeps to POSIX.1-2008 and is built with
// -DQ2C_PORTABLE=ON, the default on other systems. That one was built and tested on Linux only.
//
// Those that return an int return 0, or -1 and set errno, as the call itself would.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>

namespace q2c::os {

// Renames, unless there is something under the new name: EEXIST or ENOTEMPTY. Nobody else's file or folder is ever
// replaced, whenever it appears. Portable: a process that dies meanwhile may leave an empty folder or both names.
int RenameNoReplace(int from_dir, const char* from, int to_dir, const char* to);
// Swaps two names in one step. Portable: ENOTSUP, always.
int RenameExchange(int from_dir, const char* from, int to_dir, const char* to);
extern const bool kCanExchange;

// Makes `out`, which is empty, share the blocks of `in`. Portable: ENOTSUP.
int CloneBlocks(int out, int in);
// Another name for the very file that `fd` has open. Portable: for the file `path`, and ENOENT if that is another one.
int LinkTo(int fd, const std::string& path, int dir, const char* name);
// Real blocks for the first `bytes` of a new file. Portable: writes zeros.
int Reserve(int fd, uint64_t bytes);
// Waits for the content of a file, not for its times. Portable: for both.
int SyncData(int fd);
// Asks for the writing of a part to begin; asks for the cached pages of a file to be forgotten. Portable: nothing.
void StartWriteback(int fd, uint64_t offset, uint64_t bytes);
void DropCache(int fd);
// Is this folder the root of a mounted file system? Nothing where the kernel does not say. Portable: nothing.
std::optional<bool> IsMountRoot(int fd);

// Kills this process when its parent dies; `parent` has just forked it. Portable: within a fifth of a second.
void DieWithParent(pid_t parent);

// What tells a process from every other with its id: the boot of the kernel, the namespace of process ids, and the
// clock tick in which it began. Portable: "unknown", "", and a time in nanoseconds for this process; 0 for others.
extern const bool kKnowsProcesses;  // Portable: false
std::string BootId();
std::string PidSpace();
uint64_t StartOf(uint64_t pid);  // 0: no such process, or nobody knows

// Memory, in bytes, that this machine or this process' control group has left; the smaller. Portable: all that the machine has.
uint64_t FreeMemory();

}  // namespace q2c::os
