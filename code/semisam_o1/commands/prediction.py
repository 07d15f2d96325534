"""Label maps for scans on their own grid and in their own format: new scans, or those of the run's own dataset."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from semisam_o1.commands.class_file import CLASSES, CLASSES_HEADING, write_classes
from semisam_o1.commands.cohort import export_cohort
from semisam_o1.commands.expected_table import EXPECTED, EXPECTED_HEADING, write_expected
from semisam_o1.commands.export import export_path, to_original_grid, write_image
from semisam_o1.commands.incoming import NetworkInput, find_scans, network_input
from semisam_o1.commands.outputs import check_outputs, check_text_file, source_files
from semisam_o1.commands.predict_config import PredictConfig
from semisam_o1.commands.trained import LoadedModel, describe_best, load_model
from semisam_o1.core.device import resolve_device
from semisam_o1.core.errors import InputError, RunError, first_line, is_out_of_memory, raise_faults
from semisam_o1.core.terminal import counted, progress
from semisam_o1.data.dataset.volumes import Dataset
from semisam_o1.data.preparation.sources import ScanFiles
from semisam_o1.refinement.quality import not_to_be_trusted
from semisam_o1.runs.layout import RunFolder
from semisam_o1.runs.records import known_records


def predict(config: PredictConfig) -> list[Path]:
    """Segment scans with a trained model, or label the scans of a run's dataset; return the label maps written.

    Raises:
        InputError: if the checkpoint or a scan cannot be used; no file was written then.
        RunError: if scans were skipped, or one failed after others were written; names them and says how to go on.
    """
    outputs = export_cohort(config) if config.cohort else predict_scans(config)
    if outputs:
        written = (
            f"{len(outputs)} label map{'s' if len(outputs) > 1 else ''} in {config.out}, such as {outputs[0].name}"
        )
        print(f"written: {written}; open one over its scan in ITK-SNAP or 3D Slicer")
    return outputs


def predict_scans(config: PredictConfig) -> list[Path]:
    """Segment files and folders of scans."""
    model = load_model(config, resolve_device(config.device))
    network = network_input(model, config.preparation)
    scans = {scan.name: scan for scan in find_scans(config.scans)}
    kinds = output_kinds(model)
    outputs = {n: [export_path(config.out, n, scan.image, kind) for kind in kinds] for n, scan in scans.items()}
    arguments, inputs = model.trained.arguments, [scan.image for scan in scans.values()]
    if "root_path" in arguments:
        inputs += source_files(Dataset(Path(arguments["root_path"]), model.config.image_key))
    check_text_file(config.out / CLASSES, CLASSES_HEADING, "--out")
    check_text_file(config.out / EXPECTED, EXPECTED_HEADING, "--out")
    names = check_outputs(outputs, "--out", inputs, config.overwrite, config.skip_existing)
    failed = check_scans([scans[name] for name in names], network, config.continue_on_error)
    names = [name for name in names if name not in failed]
    print(f"{model.trained.checkpoint}{describe_origin(model)}: {model}; {network.remark}")
    written, expected = [], {}
    for name in progress(names, "predicting", unit="scan"):
        try:
            volume, _ = network.read(scans[name])
            on_grid, expected_dice = model.predict(volume)
            probabilities = to_original_grid(on_grid, volume)
            *maps, label = output_maps(model, probabilities)
            geometry, source = volume.original.geometry, volume.source
            for path, array in zip(outputs[name][:-1], maps, strict=True):
                write_image(path, array, geometry, source)
            write_image(outputs[name][-1], label, geometry, source, model.class_names)
        except Exception as error:
            failed[name] = reason_to_skip(error)
            if not config.continue_on_error:
                kept = f"written before it, completely: {counted(len(written), 'scan')}"
                remedy = "the same command with --skip_existing goes on, with --continue_on_error leaves such scans out"
                raise RunError(f"{name}: {failed[name]}. {kept}; {remedy}") from error
        else:
            written.append(outputs[name][-1])
            expected[name] = expected_dice
            write_expected(config.out / EXPECTED, {name: expected[name]})  # at once: the next scan may fail
    if written:
        write_classes(config.out / CLASSES, model.class_names)
    if remark := not_to_be_trusted(expected):
        print(remark)
    if failed:
        listing = "\n".join(f"  {name}: {reason}" for name, reason in failed.items())
        raise RunError(f"written: {counted(len(written), 'scan')}, skipped: {len(failed)}\n{listing}")
    if not names:
        print(f"all files are in {config.out} already")
    return written


def check_scans(scans: Sequence[ScanFiles], network: NetworkInput, continue_on_error: bool) -> dict[str, str]:
    """Read and prepare every scan, and warn of those unlike the scans of the run; return the failing ones.

    Raises:
        InputError: listing all that fail, unless they may.
    """
    failed: dict[str, str] = {}
    for scan in progress(scans, "checking", unit="scan"):
        try:
            _, oddities = network.read(scan)
        except Exception as error:
            failed[scan.name] = reason_to_skip(error)
        else:
            if oddities:
                print(f"warning: {scan.name}: {'; '.join(oddities)}")
    if not continue_on_error or len(failed) == len(scans):
        skippable = "scans cannot be used, nothing was written (--continue_on_error skips them)"
        raise_faults(list(failed.values()), skippable)
    return failed


def reason_to_skip(error: Exception) -> str:
    """Return why a scan cannot be segmented; raises the error itself where it says nothing about the scan alone."""
    if not isinstance(error, InputError) and not is_out_of_memory(error):
        raise error
    return first_line(error) if is_out_of_memory(error) else str(error)


def describe_origin(model: LoadedModel[PredictConfig]) -> str:
    """Return which round the best model of a run is from, in brackets; empty for another checkpoint."""
    checkpoint, folder = model.trained.checkpoint, RunFolder(model.trained.folder, model.trained.model)
    records = known_records(folder) if checkpoint == folder.best_model else []
    return f" ({describe_best(records)})" if len(records) > 1 else ""


def output_kinds(model: LoadedModel[PredictConfig]) -> list[str]:
    """Return the kinds of maps of one scan: the label map, '', comes last, so that it stands for all of them."""
    classes = range(1, model.config.num_classes) if model.config.probabilities else ()
    return [*(f"probability{c}" for c in classes), *(["uncertainty"] if model.config.uncertainty else []), ""]


def output_maps(model: LoadedModel[PredictConfig], probabilities: np.ndarray) -> list[np.ndarray]:
    """Return the maps (W, H, D) of one scan as ``output_kinds`` names them, from its probabilities (C, W, H, D).

    The label map is uint8; probabilities and uncertainty (the entropy in nats) are float32.
    """
    maps = list(probabilities[1:]) if model.config.probabilities else []
    if model.config.uncertainty:
        entropy = -(probabilities * np.log(np.maximum(probabilities, 1e-12))).sum(axis=0)
        maps.append(np.maximum(entropy, 0))
    return [*maps, model.label_map(probabilities)]
