// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle/technique.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <exception>
#include <new>
#include <string>

// Turns technique classes into the C tables of abi.h. A technique class T has
//
//   struct Params { ... };                                            plain data; initialisers are the defaults
//   static Description<Params> describe();                            what it is; called once
//   static Status run(const Params&, Context&);                       the work
//   static Status validate(const Params&);                            optional: what one parameter alone cannot show
//   static Status estimate(const Params&, const Inputs&, Estimate&);  optional: needs and attributes of the outputs
//
// all static, because a technique keeps nothing between calls. One .cpp of the plugin then says
//
//   FETTLE_PLUGIN("my-plugin", "1.0", "My Name", "Apache-2.0", T, ...)
//
// Exceptions may leave these functions: they become errors of the step.

namespace fettle::detail {

inline constexpr fettle_abi_tag abi_tag{FETTLE_ABI_MAGIC,
                                        sizeof(fettle_abi_tag),
                                        FETTLE_ABI_MAJOR,
                                        FETTLE_ABI_MINOR,
                                        sizeof(void*) * 8,
                                        1,
                                        0,
                                        sizeof(fettle_error),
                                        sizeof(fettle_value),
                                        sizeof(fettle_param),
                                        sizeof(fettle_port),
                                        sizeof(fettle_technique),
                                        sizeof(fettle_host),
                                        sizeof(fettle_run),
                                        sizeof(fettle_estimate)};

inline void copy_text(char* to, std::size_t size, const std::string& from) {
  const std::size_t n = std::min(from.size(), size - 1);
  std::memcpy(to, from.data(), n);
  to[n] = '\0';
}

inline std::int32_t report(const Status& status, fettle_error* error) {
  if (status.ok()) return FETTLE_OK;
  error->code = static_cast<std::int32_t>(status.code());
  copy_text(error->where, sizeof error->where, status.where());
  copy_text(error->message, sizeof error->message, status.message());
  return error->code;
}

/// Runs `body`, which returns a Status, and turns whatever it throws into an error.
template <class Body>
std::int32_t guarded(fettle_error* error, const Body& body) noexcept {
  try {
    return report(body(), error);
  } catch (const std::bad_alloc&) {
    return report({Code::out_of_memory, "out of memory"}, error);
  } catch (const std::exception& e) {
    return report({Code::internal, std::string("unexpected exception: ") + e.what()}, error);
  } catch (...) {
    return report({Code::internal, "unexpected exception of unknown type"}, error);
  }
}

template <class T>
concept HasValidate = requires(const typename T::Params& p) {
  T::validate(p);
};
template <class T>
concept HasEstimate = requires(const typename T::Params& p, const Inputs& in, Estimate& e) {
  T::estimate(p, in, e);
};

template <class T>
struct Adapter {
  static const Description<typename T::Params>& description() {
    static const Description<typename T::Params> d = T::describe();
    return d;
  }
  static std::int32_t validate(const fettle_value* params, std::uint32_t, fettle_error* error) {
    return guarded(error, [&]() -> Status { return T::validate(description().read(params)); });
  }
  static std::int32_t estimate(const fettle_run* planned, fettle_estimate* raw, fettle_error* error) {
    return guarded(error, [&]() -> Status {
      Estimate estimate(*raw);
      return T::estimate(description().read(planned->params), Inputs(*planned), estimate);
    });
  }
  static std::int32_t run(const fettle_run* run, fettle_error* error) {
    return guarded(error, [&]() -> Status {
      Context context(*run);
      return T::run(description().read(run->params), context);
    });
  }
  static const fettle_technique* table() {
    static const fettle_technique technique = [] {
      fettle_technique t = description().table();
      if constexpr (HasValidate<T>) t.validate = &validate;
      if constexpr (HasEstimate<T>) t.estimate = &estimate;
      t.run = &run;
      return t;
    }();
    return &technique;
  }
};

template <class... Techniques>
const fettle_library* library(const fettle_abi_tag* host, fettle_error* error, const char* name, const char* version,
                              const char* vendor, const char* licence) {
  if (host->magic != FETTLE_ABI_MAGIC || host->major != FETTLE_ABI_MAJOR || host->minor != FETTLE_ABI_MINOR) {
    report({Code::unsupported, "this plugin was built for plugin interface " + std::to_string(FETTLE_ABI_MAJOR) + "." +
                                   std::to_string(FETTLE_ABI_MINOR) + ", the host offers " +
                                   std::to_string(host->major) + "." + std::to_string(host->minor)},
           error);
    return nullptr;
  }
  static const std::array<const fettle_technique*, sizeof...(Techniques)> tables{Adapter<Techniques>::table()...};
  static const fettle_library lib{abi_tag, sizeof(fettle_library), sizeof...(Techniques), name, version, vendor,
                                  licence, tables.data()};
  return &lib;
}

}  // namespace fettle::detail

#define FETTLE_PLUGIN(name, version, vendor, licence, ...)                                                       \
  extern "C" __attribute__((visibility("default"))) const fettle_library* fettle_plugin_entry(                   \
      const fettle_abi_tag* host, fettle_error* error) {                                                         \
    try {                                                                                                        \
      return ::fettle::detail::library<__VA_ARGS__>(host, error, name, version, vendor, licence);                \
    } catch (const std::exception& e) {                                                                          \
      ::fettle::detail::report({::fettle::Code::internal, std::string("describe() threw: ") + e.what()}, error); \
      return nullptr;                                                                                            \
    } catch (...) {                                                                                              \
      ::fettle::detail::report({::fettle::Code::internal, "describe() threw an unknown exception"}, error);      \
      return nullptr;                                                                                            \
    }                                                                                                            \
  }
