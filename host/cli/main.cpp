// SPDX-License-Identifier: Apache-2.0
#include "host/cli/command_line.h"

int main(int argc, char** argv) { return fettle::host::run_command_line(argc, argv); }
