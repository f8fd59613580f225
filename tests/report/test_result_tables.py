from pathlib import Path

from tdro_lightning.report.collect import collect_runs
from tdro_lightning.report.result_tables import score_table, score_tables, seed_counts, seed_note
from tdro_lightning.report.results import results_by_run
from tdro_lightning.report.tables import Table
from tests.report.folders import metrics, write_run


def rows(table: Table) -> list[list[str]]:
    return [[cell.text + "*" * cell.best for cell in row] for row in table.rows]


def ndcg(**scores: float) -> dict[str, dict[str, float]]:
    return {name: {"ndcg@10": score} for name, score in scores.items()}


def test_main_table_order_average_difference_and_best(tmp_path: Path) -> None:
    for share, score in ((100, 0.4), (50, 0.3)):
        file = metrics(**{f"top_{share}": ndcg(nq=score, fiqa=0.5)})
        write_run(tmp_path, f"sweep/{share}", files={"metrics": file})
    file = metrics(
        uniform=ndcg(nq=0.35, fiqa=0.508),
        untrained=ndcg(nq=0.1, fiqa=0.9),
        BM25=ndcg(nq=0.6, fiqa=0.2),
    )
    write_run(tmp_path, "base", files={"metrics": file})
    table = score_table(results_by_run(collect_runs([tmp_path])), "ndcg@10")
    assert [column.title for column in table.columns] == [
        "Retriever",
        "Average",
        "vs uniform",
        "nq",
        "fiqa",
    ]
    assert [column.note for column in table.columns] == ["", "2 sets", "", "7 queries", "7 queries"]
    assert rows(table) == [
        ["BM25", "40.0", "-2.9", "60.0", "20.0"],
        ["untrained", "50.0", "+7.1", "10.0", "90.0"],
        ["uniform", "42.9", "–", "35.0", "50.8*"],
        ["top 50", "40.0", "-2.9", "30.0", "50.0"],
        ["top 100", "45.0*", "+2.1", "40.0*", "50.0"],
    ]


def test_each_usual_baseline_has_a_column(tmp_path: Path) -> None:
    scores = {"proportional": ndcg(a=0.5), "uniform": ndcg(a=0.2), "x": ndcg(a=0.4)}
    write_run(tmp_path, "r", files={"metrics": metrics(**scores)})
    table = score_table(results_by_run(collect_runs([tmp_path])), "ndcg@10")
    assert [column.title for column in table.columns[2:4]] == ["vs uniform", "vs proportional"]
    assert [[row[0], *row[2:4]] for row in rows(table)] == [
        ["uniform", "–", "-30.0"],
        ["proportional", "+30.0", "–"],
        ["x", "+20.0", "-10.0"],
    ]


def test_average_is_over_the_sets_that_all_have(tmp_path: Path) -> None:
    file = metrics(uniform=ndcg(a=0.2, b=0.4, c=0.9), other=ndcg(a=0.3, b=0.5))
    write_run(tmp_path, "r", files={"metrics": file})
    table = score_table(results_by_run(collect_runs([tmp_path])), "ndcg@10")
    assert "over the 2 of 3 sets that all retrievers have" in table.caption
    assert rows(table)[1] == ["other", "40.0*", "+10.0", "30.0*", "50.0*", "–"]


def test_parts_of_a_group_count_once(tmp_path: Path) -> None:
    scores = {"cq/tex": 0.2, "cq/gis": 0.4, "nq": 0.5}
    write_run(tmp_path, "r", files={"metrics": metrics(uniform=ndcg(**scores))})
    table = score_table(results_by_run(collect_runs([tmp_path])), "ndcg@10")
    assert rows(table)[0][1] == "40.0*"
    assert table.columns[1].note == "2 sets"
    assert "the sets of a group (`group/part`) as one" in table.caption


def test_answers_alone_make_tables_of_accuracy(tmp_path: Path) -> None:
    scores = {"mkqa-ar": {"accuracy@10": 0.25, "accuracy@100": 0.5}}
    write_run(tmp_path, "r", files={"metrics": metrics(uniform=scores)})
    tables = score_tables(results_by_run(collect_runs([tmp_path])))
    assert [table.title for table in tables] == ["Accuracy@10", "Accuracy@100"]


def test_no_common_set_gives_no_average(tmp_path: Path) -> None:
    write_run(tmp_path, "r", files={"metrics": metrics(uniform=ndcg(a=0.2), x=ndcg(b=0.4))})
    table = score_table(results_by_run(collect_runs([tmp_path])), "ndcg@10")
    assert [row[1:3] for row in rows(table)] == [["–", "–"], ["–", "–"]]


def test_without_a_baseline_there_is_no_difference(tmp_path: Path) -> None:
    write_run(tmp_path, "r", files={"metrics": metrics(x=ndcg(a=0.2))})
    table = score_table(results_by_run(collect_runs([tmp_path])), "ndcg@10")
    assert [column.title for column in table.columns] == ["Retriever", "Average", "a"]


def test_small_differences_have_no_sign(tmp_path: Path) -> None:
    file = metrics(uniform=ndcg(a=0.2), x=ndcg(a=0.1999), y=ndcg(a=0.2001))
    write_run(tmp_path, "r", files={"metrics": file})
    table = score_table(results_by_run(collect_runs([tmp_path])), "ndcg@10")
    assert [row[2] for row in rows(table)] == ["–", "0.0", "0.0"]


def test_seeds_are_counted_and_named(tmp_path: Path) -> None:
    scores = {1: (0.40, 0.43), 2: (0.44, 0.43), 3: (0.42, 0.45)}
    for seed, (uniform, tdro) in scores.items():
        write_run(
            tmp_path,
            f"s{seed}",
            seed=seed,
            files={
                "metrics": metrics(BM25=ndcg(a=0.5), uniform=ndcg(a=uniform), tdro=ndcg(a=tdro))
            },
        )
    write_run(tmp_path, "s4", seed=4, files={"metrics": metrics(tdro=ndcg(a=0.6))})
    results = results_by_run(collect_runs([tmp_path]))
    assert [result.name for result in results] == [
        "BM25",
        *(f"uniform (s{seed})" for seed in (1, 2, 3)),
        *(f"tdro (s{seed})" for seed in (1, 2, 3, 4)),
    ]
    assert seed_counts(results) == {"uniform": 3, "tdro": 4}
    table = score_table(results, "ndcg@10")
    assert (table.columns[2].title, table.columns[2].note) == ("vs uniform", "mean of 3")
    main = rows(table)
    assert [row[2] for row in main[1:4]] == ["-2.0", "+2.0", "0.0"]
    assert "uniform (3), tdro (4)" in seed_note(results)


def test_baselines_that_differ_between_runs_are_all_kept(tmp_path: Path) -> None:
    for name, score in (("x", 0.5), ("y", 0.4), ("z", 0.5)):
        write_run(tmp_path, name, files={"metrics": metrics(BM25=ndcg(a=score))})
    results = results_by_run(collect_runs([tmp_path]))
    assert [result.name for result in results] == ["BM25 (x)", "BM25 (y)"]
    assert seed_note(results).startswith("Seeds per trained retriever: none.")


def test_further_metrics_only_for_the_sets_that_have_them(tmp_path: Path) -> None:
    sets = {
        "a": {"ndcg@10": 0.1, "mrr@10": 0.2},
        "b": {"ndcg@10": 0.3, "accuracy@10": 0.4},
    }
    write_run(tmp_path, "r", files={"metrics": metrics(uniform=sets)})
    tables = score_tables(results_by_run(collect_runs([tmp_path])))
    assert [table.title for table in tables] == ["nDCG@10", "MRR@10", "Accuracy@10"]
    assert [column.title for column in tables[2].columns] == ["Retriever", "Average", "b"]
    assert "one seed is within noise" in seed_note(results_by_run(collect_runs([tmp_path])))


def test_nothing_evaluated_gives_no_tables(tmp_path: Path) -> None:
    write_run(tmp_path, "r")
    assert score_tables(results_by_run(collect_runs([tmp_path]))) == ()
