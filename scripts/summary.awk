# Reads what `cargo test -- --show-output` prints and says in one line per test binary how many tests passed, failed and
# were skipped. A test that could not run prints `SKIPPED: <test>: <reason>` and is counted as skipped, not as passed.
# Writes the skipped tests to `skipped`, the sums to `sums`, and shows what failing tests printed.

function close_suite(    n) {
    n = 0
    for (line in seen) n++
    if (n > ignored) { passed -= n - ignored; ignored = n }
    printf "%s: %d passed, %d failed, %d skipped\n", suite, passed, failed, ignored
    total_passed += passed; total_failed += failed; total_skipped += ignored
    if (failed) printf "%s", report
    fflush()
    delete seen
    report = ""; closed = 1
}

# A test binary that dies before its closing line is a failure of its own.
function lost_suite() {
    if (suite != "" && !closed) {
        printf "%s: ended without a result\n%s", suite, report
        total_failed++
    }
}

/^ +(Running|Doc-tests) / {
    lost_suite()
    suite = $0
    sub(/^ +(Running unittests |Running |Doc-tests )/, "", suite)
    if (match(suite, /\(.*deps\//)) {
        name = substr(suite, RSTART + RLENGTH)
        sub(/-[0-9a-f]+\)$/, "", name)
        suite = name
    } else {
        suite = suite "-doc"
    }
    report = ""; closed = 0
    next
}
/^SKIPPED: / {
    if (!($0 in seen)) {
        seen[$0] = 1
        print suite ": " substr($0, 10) >> skipped
    }
}
/^error: could not compile|^error\[/ { total_failed++; print }
/^test result: / {
    for (i = 1; i < NF; i++) {
        if ($(i + 1) ~ /^passed/) passed = $i
        if ($(i + 1) ~ /^failed/) failed = $i
        if ($(i + 1) ~ /^ignored/) ignored = $i
    }
    if (passed + failed + ignored > 0) close_suite(); else closed = 1
    next
}
{ report = report $0 "\n" }
END {
    lost_suite()
    print total_passed + 0, total_failed + 0, total_skipped + 0 > sums
}
