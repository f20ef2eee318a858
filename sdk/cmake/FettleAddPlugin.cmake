# SPDX-License-Identifier: Apache-2.0
# fettle_add_plugin(prune_magnitude SOURCES plugin.cpp magnitude.cpp [LIBS fettle::kit_io ...])
#
# The one way to build a plugin, in this tree and outside it. The result is <name>.so, which exports fettle_plugin_entry
# and nothing else, resolves every symbol when it is loaded and is never unloaded. In the tree it lands in
# <build>/plugins; installed, in lib/fettle/plugins.

set(FETTLE_PLUGIN_MAP ${CMAKE_CURRENT_LIST_DIR}/fettle_plugin.map)

function(fettle_add_plugin name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "OUTPUT_DIRECTORY" "SOURCES;LIBS")
  if(NOT arg_SOURCES)
    message(FATAL_ERROR "fettle_add_plugin(${name}): SOURCES is missing")
  endif()
  set(directory ${PROJECT_BINARY_DIR}/plugins)
  if(arg_OUTPUT_DIRECTORY)
    set(directory ${arg_OUTPUT_DIRECTORY})
  endif()
  add_library(${name} MODULE ${arg_SOURCES})
  target_compile_features(${name} PRIVATE cxx_std_20)
  set_target_properties(${name} PROPERTIES
    PREFIX "" SUFFIX ".so"
    C_VISIBILITY_PRESET hidden CXX_VISIBILITY_PRESET hidden VISIBILITY_INLINES_HIDDEN ON
    LIBRARY_OUTPUT_DIRECTORY ${directory}
    LINK_DEPENDS ${FETTLE_PLUGIN_MAP})
  target_link_options(${name} PRIVATE
    -Wl,--version-script=${FETTLE_PLUGIN_MAP} -Wl,-z,nodelete -Wl,-z,now -Wl,--exclude-libs,ALL)
  if(NOT FETTLE_SANITIZE)
    target_link_options(${name} PRIVATE -Wl,-z,defs)
  endif()
  if(TARGET fettle_sdk)
    target_link_libraries(${name} PRIVATE fettle_sdk ${arg_LIBS})
  else()
    target_link_libraries(${name} PRIVATE fettle::sdk ${arg_LIBS})
  endif()
  if(TARGET fettle_options)  # our own tree
    target_link_libraries(${name} PRIVATE fettle_options)
    if(NOT arg_OUTPUT_DIRECTORY)  # plugins for tests are built elsewhere and not installed
      set_property(GLOBAL APPEND PROPERTY FETTLE_PLUGIN_TARGETS ${name})
    endif()
  endif()
endfunction()
