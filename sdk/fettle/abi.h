/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The border between the fettle program and a plugin, in C11. Nothing else crosses it: no C++ type, no exception, no
 * memory that one side allocates and the other frees. C++ authors use <fettle/plugin.h>, a thin layer over this file.
 *
 * Rules
 *   Strings     UTF-8, NUL-terminated. A pointer in a table is constant and valid until the process ends. A pointer
 *               in an argument is valid during the call; whoever wants it longer copies it.
 *   Threads     each function says who may call it. [any] = any thread, at any time during the step.
 *   Growth      before 1.0 host and plugin must agree on major and minor. From 1.0 on tables only grow at their end
 *               (struct_size says how far the writer knew them) and new services get new ids.
 *   Unloading   never: a loaded plugin stays until the process ends.
 */
#ifndef FETTLE_ABI_H
#define FETTLE_ABI_H

#include <stddef.h>
#include <stdint.h>

#define FETTLE_ABI_MAGIC 0x4c545446u /* "FTTL" in a little-endian file */
#define FETTLE_ABI_MAJOR 0
#define FETTLE_ABI_MINOR 1

#ifdef __cplusplus
extern "C" {
#endif

/* ---- handshake ------------------------------------------------------------------------------------------------- */

typedef struct fettle_abi_tag {
  uint32_t magic;    /* FETTLE_ABI_MAGIC; this member and the next three never move */
  uint32_t tag_size; /* sizeof(fettle_abi_tag) */
  uint16_t major;
  uint16_t minor;
  uint8_t pointer_bits;  /* 64 */
  uint8_t little_endian; /* 1 */
  uint16_t reserved;
  uint32_t size_error; /* sizeof of the struct of that name, as its side was compiled */
  uint32_t size_value;
  uint32_t size_param;
  uint32_t size_port;
  uint32_t size_technique;
  uint32_t size_host;
  uint32_t size_run;
  uint32_t size_estimate;
} fettle_abi_tag;

/* ---- errors ---------------------------------------------------------------------------------------------------- */

enum fettle_status {
  FETTLE_OK = 0,
  FETTLE_INVALID_ARGUMENT = 1, /* the user can mend it: a parameter, a port, a combination */
  FETTLE_NOT_FOUND = 2,
  FETTLE_CORRUPT_DATA = 3, /* a file does not hold what its format demands */
  FETTLE_UNSUPPORTED = 4,  /* well-formed, but not something this technique can do */
  FETTLE_IO = 5,
  FETTLE_OUT_OF_MEMORY = 6,
  FETTLE_CANCELLED = 7, /* cancelled() was true and the step stopped; its checkpoint folder is kept */
  FETTLE_INTERNAL = 8   /* a bug in the technique */
};

/* Owned by the caller, filled by the callee, plain bytes: it may be copied and survives the plugin. */
typedef struct fettle_error {
  int32_t code; /* fettle_status */
  uint32_t reserved;
  char where[120];    /* the parameter, port or file in question, or "" */
  char message[1920]; /* what was found, what was expected, what to do; lower case, no full stop */
} fettle_error;

/* ---- parameters ------------------------------------------------------------------------------------------------ */

enum fettle_type {
  FETTLE_TYPE_NONE = 0, /* only in a value: an optional parameter that was not given */
  FETTLE_TYPE_BOOL = 1,
  FETTLE_TYPE_INT = 2,
  FETTLE_TYPE_FLOAT = 3,
  FETTLE_TYPE_STRING = 4,
  FETTLE_TYPE_COUNT = 5,    /* an integer >= 0 that may be written 2M, 512k, 1G (powers of 1000) */
  FETTLE_TYPE_SIZE = 6,     /* bytes >= 0, written with its unit: 24GiB, 500MB */
  FETTLE_TYPE_DURATION = 7, /* seconds >= 0, written with its unit: 90s, 15min, 2h */
  FETTLE_TYPE_PATH = 8      /* a file or folder outside the store, relative to the pipeline file. Its content digest,
                               not its name, enters the cache key; the technique receives an absolute path */
};

enum fettle_shape { FETTLE_SCALAR = 0, FETTLE_LIST = 1, FETTLE_MAP = 2 /* keys are strings, in the order written */ };

enum fettle_param_flag {
  FETTLE_PARAM_REQUIRED = 1u, /* no default; must be written */
  FETTLE_PARAM_OPTIONAL = 2u, /* no default; the value is FETTLE_TYPE_NONE when absent */
  FETTLE_PARAM_HAS_MIN = 4u,
  FETTLE_PARAM_HAS_MAX = 8u
};

typedef struct fettle_param {
  const char* name;
  const char* help; /* one line */
  const char* unit; /* for people: "share of weights", "tokens"; NULL: none */
  uint32_t type;    /* fettle_type: of the value, or of each item of a list or map */
  uint32_t shape;   /* fettle_shape */
  uint32_t flags;   /* fettle_param_flag */
  uint32_t reserved;
  double min; /* inclusive, if FETTLE_PARAM_HAS_MIN; applies to each item */
  double max;
  const char* default_text;   /* YAML flow text, read as if the user had written it; NULL if required or optional */
  const char* const* choices; /* NULL-terminated list of the allowed strings, or NULL: any */
} fettle_param;

typedef struct fettle_value {
  uint32_t type;                    /* fettle_type */
  uint32_t count;                   /* items of a list or map */
  int64_t integer;                  /* bool (0 or 1), int, count, size */
  double real;                      /* float, duration */
  const char* text;                 /* string, path */
  const struct fettle_value* items; /* of a list or map, else NULL */
  const char* key;                  /* of this item, if it stands in a map */
} fettle_value;

/* ---- ports and artifacts --------------------------------------------------------------------------------------- */

enum fettle_port_flag {
  FETTLE_PORT_OPTIONAL = 1u,
  FETTLE_PORT_LIST = 2u /* any number of artifacts, in the order written */
};

typedef struct fettle_port {
  const char* name;
  const char* help;
  const char* kind;    /* "model" "tokens" "text" "stats" "targets" "mask" "metrics" "file" */
  const char* accepts; /* constraint on the artifact's attributes, or NULL: "layout=hf; weights=f32|f16|bf16". Terms are
                          joined by ';' and all must hold; '*' in a value matches any text; '=@port' demands the same
                          value as the artifact at that port. An attribute nobody knows yet counts as holding */
  uint32_t flags;      /* fettle_port_flag */
  uint32_t reserved;
} fettle_port;

typedef struct fettle_attribute {
  const char* key; /* for example "architecture", "weights", "parameters", "tokenizer": docs/reference/artifacts.md */
  const char* value;
} fettle_attribute;

/* An artifact at an input port. While planning, path and digest are NULL if the artifact does not exist yet. */
typedef struct fettle_input {
  const char* port;
  const char* kind;
  const char* path;   /* a folder, immutable: read only */
  const char* digest; /* "sha256:" and 64 hex digits */
  const fettle_attribute* attributes;
  uint32_t attribute_count;
  uint32_t reserved;
} fettle_input;

/* An output port and the empty folder that becomes its artifact when run() returns FETTLE_OK. A symbolic link to a file
   outside the store makes that file part of the artifact without copying it. */
typedef struct fettle_output {
  const char* port;
  const char* path;
} fettle_output;

/* ---- services of the host -------------------------------------------------------------------------------------- */

enum fettle_log_level { FETTLE_LOG_DEBUG = 1, FETTLE_LOG_INFO = 2, FETTLE_LOG_WARNING = 3 };

typedef struct fettle_host {
  uint32_t struct_size;
  uint32_t reserved;
  void* self;
  /* [any] A warning is also kept in the run record and shown again at the end. Message is copied. */
  void (*log)(const struct fettle_host* host, int32_t level, const char* message);
  /* [any] done of total units of the named phase; total 0: unknown. Cheap enough to call for every block or batch. */
  void (*progress)(const struct fettle_host* host, const char* phase, uint64_t done, uint64_t total);
  /* [any] Non-zero once the step should stop. Poll it at least ten times a second of work. */
  int32_t (*cancelled)(const struct fettle_host* host);
  /* [any] A table of functions for an optional service, or NULL if this host lacks it. */
  const void* (*service)(const struct fettle_host* host, const char* id);
} fettle_host;

#define FETTLE_SERVICE_METRICS "fettle.metrics/1"

/* Numbers about the result. They land in the run record, the report and the gates. */
typedef struct fettle_metrics {
  uint32_t struct_size;
  uint32_t reserved;
  /* [any] standard_error: NaN if it has none. unit: "nats", "bytes", "tokens/s", ... or NULL. A second call with the
     same name replaces the first. */
  void (*scalar)(const fettle_host* host, const char* name, double value, double standard_error, const char* unit);
  /* [any] Appends a point to the named series, for example the loss (y) at a step (x). */
  void (*point)(const fettle_host* host, const char* name, double x, double y);
} fettle_metrics;

/* ---- the technique --------------------------------------------------------------------------------------------- */

typedef struct fettle_run {
  uint32_t struct_size;
  uint32_t threads; /* cores admitted for this step; the calling thread is already inside a TBB arena of
                       that size, or larger for cores left idle by others: just use tbb::parallel_for, no own threads */
  const fettle_host* host;
  const fettle_value* params; /* in the order of the declaration */
  const fettle_input* inputs; /* in the order of the declaration; a list port has as many entries as artifacts */
  const fettle_output* outputs;
  uint32_t param_count;
  uint32_t input_count;
  uint32_t output_count; /* 0 while planning */
  uint32_t reserved;
  uint64_t seed;
  uint64_t memory_budget; /* bytes of private memory admitted for this step */
  const char* scratch;    /* a folder for temporary files, removed after the step; NULL while planning */
  const char* checkpoint; /* a folder that survives until the step commits: a killed step finds what it left */
} fettle_run;

typedef struct fettle_estimate {
  uint32_t struct_size;
  uint32_t max_threads;  /* more would not help; 0: no limit */
  uint64_t memory_bytes; /* peak private memory */
  uint64_t disk_bytes;   /* of the outputs */
  double flops;          /* total; 0: negligible */
  void* self;
  /* Foretells an attribute of an output, so that later steps can be checked and estimated before this one has run. */
  void (*attribute)(void* self, const char* output_port, const char* key, const char* value);
} fettle_estimate;

enum fettle_determinism {
  FETTLE_PORTABLE = 0, /* same inputs, same bytes, on every machine */
  FETTLE_ISA = 1,      /* ... on machines with the same instruction set */
  FETTLE_DEVICE = 2    /* ... on the same device */
};

typedef struct fettle_technique {
  uint32_t struct_size;
  uint32_t epoch;        /* raise it whenever the same inputs give other bytes; part of every cache key */
  const char* id;        /* "kind.name": lower case letters, digits, '-', '_' */
  const char* help;      /* one line */
  const char* version;   /* for people */
  const char* reference; /* the paper or specification, with its section; NULL: none */
  uint32_t determinism;  /* fettle_determinism */
  uint32_t reserved;
  const fettle_port* inputs;
  const fettle_port* outputs;
  const fettle_param* params;
  uint32_t input_count;
  uint32_t output_count;
  uint32_t param_count;
  uint32_t service_count;
  const char* const* services; /* ids of services it cannot work without: checked before anything runs */
  /* The three below are [any] and re-entrant: several steps may use one technique at once. Each returns a fettle_status
     and fills *error unless it is FETTLE_OK. */
  /* Pure, cheap; may be NULL. Checks what one parameter alone cannot show; error->where names the parameter. */
  int32_t (*validate)(const fettle_value* params, uint32_t param_count, fettle_error* error);
  /* Pure, cheap, no file access; may be NULL. Sees parameters and the attributes of the inputs. */
  int32_t (*estimate)(const fettle_run* planned, fettle_estimate* estimate, fettle_error* error);
  int32_t (*run)(const fettle_run* run, fettle_error* error);
} fettle_technique;

typedef struct fettle_library {
  fettle_abi_tag abi; /* as the plugin was compiled; stays first for ever */
  uint32_t struct_size;
  uint32_t technique_count;
  const char* name; /* "fettle-prune-magnitude" */
  const char* version;
  const char* vendor;
  const char* licence;
  const fettle_technique* const* techniques;
} fettle_library;

/* The one symbol a plugin exports, under this name. Returns its constant table, or NULL with *error filled if it cannot
   work with this host. [any], may be called more than once. */
typedef const fettle_library* (*fettle_entry_fn)(const fettle_abi_tag* host, fettle_error* error);
#define FETTLE_ENTRY_SYMBOL "fettle_plugin_entry"

#ifdef __cplusplus
}
#endif
#endif
