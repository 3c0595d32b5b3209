"""cluster.yaml against Ray's own schema, offline."""

from pathlib import Path

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

FILE = Path(__file__).parents[1] / "cluster.yaml"

pytestmark = pytest.mark.filterwarnings("ignore")  # Ray's own


def test_the_cluster_file_is_valid() -> None:
    validate_config(prepare_config(yaml.safe_load(FILE.read_text())))


def test_the_check_notices_a_wrong_key() -> None:
    wrong = {**yaml.safe_load(FILE.read_text()), "max_wokers": 3}
    with pytest.raises(Exception, match="max_wokers"):
        validate_config(prepare_config(wrong))


def test_the_head_holds_no_replica() -> None:
    config = yaml.safe_load(FILE.read_text())
    head = config["available_node_types"][config["head_node_type"]]
    assert head["resources"] == {"CPU": 0}
