/*
 * Lets User-Mode Linux before 6.13 run on processors with AMX.
 *
 * It keeps 2696 bytes of extended processor state for each guest thread, which is all up to AVX-512, and the host's
 * ptrace(PTRACE_SETREGSET) wants the whole, AMX's tiles too: "ptrace set fp regs failed, errno = 14". No guest uses
 * tiles (they need a permission that nobody asks for), so what is missing is set to "not in use".
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <elf.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/types.h>
#include <sys/uio.h>

enum { XSTATE_BV = 512, KEPT_BY_UML = 0xff };

static char whole[1 << 16] __attribute__((aligned(64)));

long ptrace(enum __ptrace_request request, ...) {
  static long (*next)(enum __ptrace_request, pid_t, void *, void *);
  va_list arguments;
  va_start(arguments, request);
  pid_t pid = va_arg(arguments, pid_t);
  void *address = va_arg(arguments, void *);
  void *data = va_arg(arguments, void *);
  va_end(arguments);
  if (!next) next = (long (*)(enum __ptrace_request, pid_t, void *, void *))dlsym(RTLD_NEXT, "ptrace");

  if (request != PTRACE_SETREGSET || (uintptr_t)address != NT_X86_XSTATE) return next(request, pid, address, data);
  struct iovec *given = data, full = {whole, sizeof whole};
  if (next(PTRACE_GETREGSET, pid, address, &full) < 0) return -1;
  if (given->iov_len >= full.iov_len) return next(request, pid, address, data);
  memcpy(whole, given->iov_base, given->iov_len);
  *(uint64_t *)(whole + XSTATE_BV) &= KEPT_BY_UML;
  return next(request, pid, address, &full);
}
