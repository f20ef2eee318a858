# SPDX-License-Identifier: Apache-2.0
# Installed: the program, our plugins, and the SDK with its toolkit as a CMake package that offers fettle::sdk,
# fettle::kit, fettle::kit_<part> and fettle_add_plugin().
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

get_property(kit_targets GLOBAL PROPERTY FETTLE_KIT_TARGETS)
get_property(plugin_targets GLOBAL PROPERTY FETTLE_PLUGIN_TARGETS)
set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/fettle)

if(TARGET fettle)
  install(TARGETS fettle RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
endif()
if(plugin_targets)
  install(TARGETS ${plugin_targets} LIBRARY DESTINATION lib/fettle/plugins)
endif()
install(TARGETS fettle_sdk fettle_kit ${kit_targets} EXPORT fettle
  ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR}
  FILE_SET HEADERS DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(EXPORT fettle NAMESPACE fettle:: FILE fettleTargets.cmake DESTINATION ${package_dir})
configure_package_config_file(${CMAKE_CURRENT_LIST_DIR}/fettleConfig.cmake.in ${PROJECT_BINARY_DIR}/fettleConfig.cmake
  INSTALL_DESTINATION ${package_dir})
# Before 1.0 a plugin and a host must agree on the minor version, so the package does too.
write_basic_package_version_file(${PROJECT_BINARY_DIR}/fettleConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/fettleConfig.cmake ${PROJECT_BINARY_DIR}/fettleConfigVersion.cmake
  ${CMAKE_CURRENT_LIST_DIR}/FettleAddPlugin.cmake ${CMAKE_CURRENT_LIST_DIR}/fettle_plugin.map
  DESTINATION ${package_dir})
install(DIRECTORY pipelines/ DESTINATION ${CMAKE_INSTALL_DATADIR}/fettle/pipelines FILES_MATCHING PATTERN "*.yaml")
