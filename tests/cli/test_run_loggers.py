"""Metrics and config of a run go into its directory and to every logger that the user names."""

from pathlib import Path

import pytest
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from laser_lightning.cli import config_files
from laser_lightning.cli.command_line import main
from laser_lightning.cli.run_loggers import run_loggers, sentence_of_logger
from laser_lightning.runs.metrics_file import MetricsFile

STAND_INS = Path(__file__).parents[1] / "stand_ins"


@pytest.fixture(autouse=True)
def working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(STAND_INS)
    monkeypatch.setattr(config_files, "packaged_root", lambda: STAND_INS)


def test_which_loggers(tmp_path: Path) -> None:
    csv, tensorboard = run_loggers(MetricsFile(tmp_path / "run"), tmp_path / "run", None)
    assert (type(csv), csv.log_dir) == (MetricsFile, str(tmp_path / "run"))
    assert (type(tensorboard), tensorboard.log_dir) == (TensorBoardLogger, str(tmp_path / "run"))
    assert [type(logger) for logger in run_loggers(MetricsFile(tmp_path), tmp_path, True)] == [
        MetricsFile,
        TensorBoardLogger,
    ]
    own = TensorBoardLogger(tmp_path / "other")
    for given in (own, [own]):
        first, second = run_loggers(MetricsFile(tmp_path), tmp_path, given)
        assert type(first) is MetricsFile
        assert second is own


def test_the_config_is_in_tensorboard() -> None:
    assert main(["fit", "--config", "base", "--run_dir", "run", "--model.alpha", "0.75"]) == 0
    (event,) = EventAccumulator("run").Reload().Tensors("config/text_summary")
    assert b"\n    alpha: 0.75\n" in event.tensor_proto.string_val[0]


def mlflow_config() -> str:
    logger = "{class_path: lightning.pytorch.loggers.MLFlowLogger, init_args: {experiment_name: tests}}"
    Path("mlflow.yaml").write_text(f"trainer: {{logger: {logger}}}\n")
    return "mlflow.yaml"


def test_mlflow_beside_a_run_and_in_a_resumed_one() -> None:
    tracking = pytest.importorskip(
        "mlflow.tracking", reason="MLflow is not installed: pip install 'laser-lightning[loggers]'"
    )
    place = "--trainer.logger.init_args.tracking_uri=sqlite:///runs.db"
    options = ["--config", "base", "--config", mlflow_config(), place, "--run_dir", "run"]
    assert main(["fit", *options]) == 0
    client = tracking.MlflowClient("sqlite:///runs.db")
    (run,) = client.search_runs([client.get_experiment_by_name("tests").experiment_id])
    assert run.data.params["model/init_args/settings/rate"] == "0.2"
    assert run.data.params["trainer/max_steps"] == "1"
    assert run.data.metrics.keys() == {"loss", "epoch"}
    assert Path("run/metrics.csv").is_file()

    again = f"--trainer.logger.init_args.run_id={run.info.run_id}"
    with pytest.warns(UserWarning, match=r"are others now: .*trainer/max_steps\."):
        assert main(["fit", *options, again, "--trainer.max_steps=2", "--ckpt_path=last"]) == 0
    resumed = client.get_run(run.info.run_id).data
    assert resumed.params["trainer/max_steps"] == "1"
    assert [point.step for point in client.get_metric_history(run.info.run_id, "loss")] == [0, 1]


def test_a_logger_that_cannot_log_is_told_in_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("mlflow", reason="MLflow is not installed: pip install 'laser-lightning[loggers]'")
    place = "--trainer.logger.init_args.tracking_uri=nowhere://runs"
    assert main(["fit", "--config", "base", "--config", mlflow_config(), place]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert errors[-1].startswith("laser-lightning: error: trainer.logger: MLflow cannot log: ")


def test_errors_of_others_are_not_those_of_loggers() -> None:
    assert sentence_of_logger(RuntimeError("broken")) is None
    error = type("UsageError", (Exception,), {"__module__": "wandb.errors.errors"})("no key")
    assert sentence_of_logger(error) == "trainer.logger: W&B cannot log: no key"
