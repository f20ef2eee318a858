# SPDX-License-Identifier: Apache-2.0
# How our own targets are compiled: one interface target for warnings and numerics, one function a kind of target.
# Nothing here is installed.

add_library(fettle_options INTERFACE)
target_compile_options(fettle_options INTERFACE
  -Wall -Wextra -Wpedantic $<$<CXX_COMPILER_ID:GNU>:-Wshadow=local> $<$<COMPILE_LANGUAGE:CXX>:-Wnon-virtual-dtor>
  -ffp-contract=off  # a fused multiply-add only where written: the same bits on every instruction set
  # GCC 12 takes std::string's own operator+ for an overlapping copy (its bug 105651).
  $<$<BOOL:${FETTLE_WERROR}>:-Werror;$<$<CXX_COMPILER_ID:GNU>:-Wno-restrict>>)
if(FETTLE_SANITIZE)  # a list like address,undefined: its comma would end a generator expression
  target_compile_options(fettle_options INTERFACE
    -fsanitize=${FETTLE_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all)
  target_link_options(fettle_options INTERFACE -fsanitize=${FETTLE_SANITIZE})
endif()

# fettle_kit_library(io SOURCES a.cpp HEADERS a.h PUBLIC other_libs PRIVATE other_libs)
# A folder of the toolkit: target fettle_kit_<name>, linked into plugins that want it.
function(fettle_kit_library name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "" "SOURCES;HEADERS;PUBLIC;PRIVATE")
  set(target fettle_kit_${name})
  add_library(${target} STATIC ${arg_SOURCES})
  add_library(fettle::kit_${name} ALIAS ${target})
  set_target_properties(${target} PROPERTIES EXPORT_NAME kit_${name})
  target_sources(${target} PUBLIC FILE_SET HEADERS BASE_DIRS ${PROJECT_SOURCE_DIR}/sdk FILES ${arg_HEADERS})
  target_link_libraries(${target} PUBLIC fettle_sdk ${arg_PUBLIC} PRIVATE $<BUILD_INTERFACE:fettle_options> ${arg_PRIVATE})
  set_property(GLOBAL APPEND PROPERTY FETTLE_KIT_TARGETS ${target})
endfunction()

# fettle_host_library(store SOURCES ... PUBLIC ... PRIVATE ...): a folder of the program.
function(fettle_host_library name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "" "SOURCES;PUBLIC;PRIVATE")
  set(target fettle_host_${name})
  add_library(${target} STATIC ${arg_SOURCES})
  target_include_directories(${target} PUBLIC ${PROJECT_SOURCE_DIR})
  target_link_libraries(${target} PUBLIC fettle_sdk ${arg_PUBLIC} PRIVATE fettle_options ${arg_PRIVATE})
endfunction()

# fettle_test(unit_kit_io SOURCES a_test.cpp LIBS fettle_kit_io LABELS slow)
# One test program; each TEST in it becomes a CTest test.
function(fettle_test name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "" "SOURCES;LIBS;LABELS;DEFINITIONS")
  add_executable(test_${name} ${arg_SOURCES})
  target_include_directories(test_${name} PRIVATE ${PROJECT_SOURCE_DIR} ${PROJECT_SOURCE_DIR}/tests)
  target_link_libraries(test_${name} PRIVATE ${arg_LIBS} GTest::gtest_main GTest::gmock fettle_options)
  target_compile_definitions(test_${name} PRIVATE
    FETTLE_TEST_DATA="${PROJECT_SOURCE_DIR}/tests/data"
    FETTLE_TEST_SHARED="${PROJECT_SOURCE_DIR}/../shared"
    FETTLE_TEST_BINARY_DIR="${PROJECT_BINARY_DIR}"
    FETTLE_TEST_SOURCE_DIR="${PROJECT_SOURCE_DIR}" ${arg_DEFINITIONS})
  add_test(NAME ${name} COMMAND test_${name})
  set_tests_properties(${name} PROPERTIES LABELS "${arg_LABELS}" TIMEOUT 600)
endfunction()

# fettle_bench(kit_kernels_gemm SOURCES gemm_bench.cpp LIBS fettle_kit_kernels)
function(fettle_bench name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "" "SOURCES;LIBS")
  add_executable(bench_${name} EXCLUDE_FROM_ALL ${arg_SOURCES})
  target_include_directories(bench_${name} PRIVATE ${PROJECT_SOURCE_DIR} ${PROJECT_SOURCE_DIR}/tests)
  target_link_libraries(bench_${name} PRIVATE ${arg_LIBS} benchmark::benchmark fettle_options)
  set_property(GLOBAL APPEND PROPERTY FETTLE_BENCH_TARGETS bench_${name})
endfunction()
