"""One fuzzer: NAME_fuzz.cc defines LLVMFuzzerTestOneInput."""

def fuzzer(name, deps, max_len = 4096):
    """Makes NAME_fuzz, for tests/fuzz/run.sh, and NAME_corpus_test, which replays corpus/NAME in every test run.

    Args:
      name: corpus/NAME holds the inputs that are kept.
      deps: what NAME_fuzz.cc includes.
      max_len: longest input that is made.
    """
    native.cc_library(
        name = name + "_target",
        testonly = True,
        srcs = [name + "_fuzz.cc"],
        deps = deps,
        alwayslink = True,
    )

    # Links with clang's libFuzzer only: --config=fuzz.
    native.cc_binary(
        name = name + "_fuzz",
        testonly = True,
        args = ["-max_len=%d" % max_len],
        linkopts = ["-fsanitize=fuzzer"],
        tags = ["manual"],
        deps = [":" + name + "_target"],
    )
    native.cc_test(
        name = name + "_corpus_test",
        size = "small",
        args = ["$(locations :%s_corpus)" % name],
        data = [":%s_corpus" % name],
        deps = [
            ":replay_main",
            ":" + name + "_target",
        ],
    )
    native.filegroup(
        name = name + "_corpus",
        testonly = True,
        srcs = native.glob(["corpus/%s/**" % name]),
    )
