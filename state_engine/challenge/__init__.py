"""Virtual Cell Challenge submissions: checked at once, repaired where that is safe, packed in constant memory.

    spec.load_challenge(NAME|TOML, genes=Path, pert_counts=Path, contexts=("A","B","C")) -> ChallengeSpec
    spec.load_rules(challenge) -> Rules                        the rules alone, for a page that has no lists yet
    source.SubmissionSource(path, perturbation_key="", context_key="", matrix="X", gene_column="", kinds=(), control_files=())
    source.source_of_run(result.h5ad, rules, control_files=()) -> SubmissionSource    the rows of a run that a challenge wants
    counts.CountsOptions(rounding="auto"|"poisson"|"stochastic"|"nearest", seed=0, library=None)   auto: by the kind of prediction
    null.null_checked(plan, repairs) -> Plan                   effect zero through the same steps, against real control cells
    check.check(source, spec, *, repairs=(), counts=None, output=None, on_progress) -> Report
    archive.write_archive(source, spec, output, *, repairs=(), counts=None, on_progress) -> Report
    verify.verify(archive, spec, *, scratch=None, on_progress) -> Report
    receipts.read_receipts(path) -> (Receipt, ...)   receipts.solve_anchors(receipts) -> (Anchor, ...)   of `vcc status --json`
    findings.Report   .ok .errors .offered (repairs to offer) .findings .repairs (made) .archive (None: not written) .options
    findings.Finding(code, severity, title, detail, count, examples, repair)    findings.REPAIRS[name] -> Repair(name, title, automatic)

What is wrong with files, lists or data is a finding, never an exception; `ChallengeError` is for a request that makes no sense.
No torch here. Spec + source -> contents.Plan (names, labels, repairs) -> blocks of cells -> value checks -> spool -> h5ad -> zstd -> tar.
"""
