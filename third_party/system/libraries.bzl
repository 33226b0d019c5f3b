"""Every third-party library that the project links, and the label it has here."""

load("//third_party/system:system_library.bzl", "system_library")

def system_libraries():
    """Declares the repositories; called once from WORKSPACE."""
    system_library(
        name = "com_google_absl",
        targets = {
            "absl/base:core_headers": "pkg:absl_base",
            "absl/base:endian": "pkg:absl_base",
            "absl/cleanup:cleanup": "pkg:absl_cleanup",
            "absl/container:flat_hash_map": "pkg:absl_flat_hash_map",
            "absl/container:flat_hash_set": "pkg:absl_flat_hash_set",
            "absl/flags:flag": "pkg:absl_flags",
            "absl/flags:parse": "pkg:absl_flags_parse,absl_flags_usage",
            "absl/flags:config": "pkg:absl_flags_config",
            "absl/functional:any_invocable": "pkg:absl_any_invocable",
            "absl/functional:function_ref": "pkg:absl_function_ref",
            "absl/numeric:bits": "pkg:absl_bits",
            "absl/status:status": "pkg:absl_status",
            "absl/status:statusor": "pkg:absl_statusor",
            "absl/strings:strings": "pkg:absl_strings",
            "absl/strings:str_format": "pkg:absl_str_format",
            "absl/synchronization:synchronization": "pkg:absl_synchronization",
            "absl/time:time": "pkg:absl_time",
            "absl/types:span": "pkg:absl_span,absl_throw_delegate",
        },
    )
    system_library(
        name = "com_google_protobuf",
        targets = {":protobuf": "pkg:protobuf"},
    )
    system_library(
        name = "com_github_grpc_grpc",
        targets = {
            ":grpc++": "lib:-lgrpc++,-lgrpc,-lgpr",
            ":grpc++_reflection": "lib:-lgrpc++_reflection,-lgrpc++,-lgrpc,-lgpr",
        },
    )
    system_library(name = "rocksdb", targets = {":rocksdb": "pkg:rocksdb"})
    system_library(
        name = "com_github_jupp0r_prometheus_cpp",
        targets = {
            "core:core": "pkg:prometheus-cpp-core",
            "pull:pull": "pkg:prometheus-cpp-pull,prometheus-cpp-core",
        },
    )
    system_library(
        name = "com_google_googletest",
        targets = {
            ":gtest": "pkg:gmock,gtest",
            ":gtest_main": "pkg:gmock,gtest,gtest_main",
        },
    )
    system_library(name = "com_google_benchmark", targets = {":benchmark": "pkg:benchmark"})
    system_library(name = "onednn", targets = {":onednn": "lib:-ldnnl"})
    system_library(name = "com_google_highway", targets = {":hwy": "pkg:libhwy"})
    system_library(name = "pcre2", targets = {":pcre2": "pkg:libpcre2-8"})
    system_library(name = "utf8proc", targets = {":utf8proc": "pkg:libutf8proc"})
    system_library(name = "nlohmann_json", targets = {":json": "lib:"})
    system_library(name = "xxhash", targets = {":xxhash": "pkg:libxxhash"})
    system_library(name = "cli11", targets = {":cli11": "lib:"})
