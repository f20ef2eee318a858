// SPDX-License-Identifier: Apache-2.0
#pragma once

// FETTLE_EVERY_ISA before a function: compiled for several instruction sets and chosen when the library is loaded. Safe
// for the bits where lanes are independent and a fused multiply-add is written as one, since nothing here is compiled
// with contraction. Sanitizers' run times cannot resolve it.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define FETTLE_EVERY_ISA
#else
#define FETTLE_EVERY_ISA __attribute__((target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")))
#endif
