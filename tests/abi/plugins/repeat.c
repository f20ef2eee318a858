/* SPDX-License-Identifier: Apache-2.0 */
/* A technique in plain C11, with nothing but abi.h: writes a line a given number of times. */
#include "fettle/abi.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { PARAM_LINE, PARAM_TIMES, PARAM_SEPARATOR, PARAM_COUNT };

static const char* const separators[] = {"newline", "space", NULL};

static const fettle_param params[PARAM_COUNT] = {
    {.name = "line", .help = "what to write", .type = FETTLE_TYPE_STRING, .flags = FETTLE_PARAM_REQUIRED},
    {.name = "times",
     .help = "how often",
     .unit = "lines",
     .type = FETTLE_TYPE_COUNT,
     .flags = FETTLE_PARAM_HAS_MIN | FETTLE_PARAM_HAS_MAX,
     .min = 1,
     .max = 1e6,
     .default_text = "3"},
    {.name = "separator",
     .help = "what stands after each line",
     .type = FETTLE_TYPE_STRING,
     .default_text = "\"newline\"",
     .choices = separators},
};

static const fettle_port outputs[] = {{.name = "text", .help = "the lines", .kind = "text"}};

static int32_t fail(fettle_error* error, int32_t code, const char* where, const char* message) {
  error->code = code;
  snprintf(error->where, sizeof error->where, "%s", where);
  snprintf(error->message, sizeof error->message, "%s", message);
  return code;
}

static int32_t validate(const fettle_value* values, uint32_t count, fettle_error* error) {
  (void)count;
  if (values[PARAM_LINE].text[0] == '\0')
    return fail(error, FETTLE_INVALID_ARGUMENT, "line", "is empty, expected some text to repeat");
  return FETTLE_OK;
}

static int32_t estimate(const fettle_run* planned, fettle_estimate* estimate, fettle_error* error) {
  (void)error;
  estimate->memory_bytes = 4096;
  estimate->max_threads = 1;
  estimate->disk_bytes =
      (strlen(planned->params[PARAM_LINE].text) + 1) * (uint64_t)planned->params[PARAM_TIMES].integer;
  return FETTLE_OK;
}

static int32_t run(const fettle_run* run, fettle_error* error) {
  const fettle_host* host = run->host;
  const char* line = run->params[PARAM_LINE].text;
  const uint64_t times = (uint64_t)run->params[PARAM_TIMES].integer;
  const char separator = strcmp(run->params[PARAM_SEPARATOR].text, "space") == 0 ? ' ' : '\n';

  char path[4096];
  if ((size_t)snprintf(path, sizeof path, "%s/lines.txt", run->outputs[0].path) >= sizeof path)
    return fail(error, FETTLE_IO, "text", "the path of the output folder is too long");
  FILE* file = fopen(path, "wb");
  if (!file) return fail(error, FETTLE_IO, "text", "the output file cannot be created");
  int32_t status = FETTLE_OK;
  for (uint64_t i = 0; i < times && status == FETTLE_OK; ++i) {
    if (host->cancelled(host))
      status = fail(error, FETTLE_CANCELLED, "", "cancelled");
    else if (fputs(line, file) < 0 || fputc(separator, file) == EOF)
      status = fail(error, FETTLE_IO, "text", "the disk is full");
    host->progress(host, "writing", i + 1, times);
  }
  if (fclose(file) != 0 && status == FETTLE_OK) status = fail(error, FETTLE_IO, "text", "the disk is full");

  const fettle_metrics* metrics = host->service(host, FETTLE_SERVICE_METRICS);
  if (metrics && status == FETTLE_OK) metrics->scalar(host, "lines", (double)times, NAN, "lines");
  return status;
}

static const fettle_technique repeat = {
    .struct_size = sizeof(fettle_technique),
    .epoch = 1,
    .id = "test.repeat",
    .help = "Write a line a given number of times.",
    .version = "1.0",
    .determinism = FETTLE_PORTABLE,
    .outputs = outputs,
    .params = params,
    .output_count = 1,
    .param_count = PARAM_COUNT,
    .validate = validate,
    .estimate = estimate,
    .run = run,
};

static const fettle_technique* const techniques[] = {&repeat};

static const fettle_library library = {
    .abi = {.magic = FETTLE_ABI_MAGIC,
            .tag_size = sizeof(fettle_abi_tag),
            .major = FETTLE_ABI_MAJOR,
            .minor = FETTLE_ABI_MINOR,
            .pointer_bits = sizeof(void*) * 8,
            .little_endian = 1,
            .size_error = sizeof(fettle_error),
            .size_value = sizeof(fettle_value),
            .size_param = sizeof(fettle_param),
            .size_port = sizeof(fettle_port),
            .size_technique = sizeof(fettle_technique),
            .size_host = sizeof(fettle_host),
            .size_run = sizeof(fettle_run),
            .size_estimate = sizeof(fettle_estimate)},
    .struct_size = sizeof(fettle_library),
    .technique_count = 1,
    .name = "test-repeat",
    .version = "1.0",
    .vendor = "Fettle",
    .licence = "Apache-2.0",
    .techniques = techniques,
};

#if defined(__GNUC__)
__attribute__((visibility("default")))
#endif
const fettle_library*
fettle_plugin_entry(const fettle_abi_tag* host, fettle_error* error) {
  if (host->magic == FETTLE_ABI_MAGIC && host->major == FETTLE_ABI_MAJOR && host->minor == FETTLE_ABI_MINOR)
    return &library;
  fail(error, FETTLE_UNSUPPORTED, "", "this plugin was built for another plugin interface");
  return NULL;
}
