# SPDX-License-Identifier: Apache-2.0
# Installed: the program, our plugins, the SDK with its toolkit, and a CMake package that offers fettle::sdk,
# fettle::kit and fettle_add_plugin().
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)
