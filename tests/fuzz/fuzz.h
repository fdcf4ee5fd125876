/* SPDX-License-Identifier: Apache-2.0 */
/* fuzz.h — one fuzz target = one program with this one function. Built with -Dfuzz=true it is a libFuzzer target, else
 * fuzz_main.c replays corpus/NAME/ with it: each file and each truncation of it. It must return 0 and abort on a broken
 * promise. */
#ifndef TESTS_FUZZ_H
#define TESTS_FUZZ_H

#include <stddef.h>
#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#endif
