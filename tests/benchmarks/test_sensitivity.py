"""The sensitivity benchmark: one setting at a time, and what is printed."""

import scsiameseclu_jax as scs
from benchmarks import sensitivity


def test_the_grid_changes_one_setting_at_a_time():
    points = sensitivity.grid(list(sensitivity.defaults()))
    assert points[0] == ("default", 0.0)
    assert len(set(points)) == len(points)
    default = scs.Config()
    for setting, value in points[1:]:
        section, name = setting.split(".")
        config = scs.Config.from_dict({section: {name: value}})
        changed = [key for key, part in config.to_dict().items() if part != default.to_dict()[key]]
        assert changed == [section]


def test_a_curve_has_the_default_and_averages_over_sets():
    default = sensitivity.defaults()["network.n_latent"]
    runs = [
        {"set": name, "setting": setting, "value": value, "seed": 0, "ari": ari}
        for name, setting, value, ari in [
            ("a", "default", 0.0, 0.6),
            ("b", "default", 0.0, 0.8),
            ("a", "network.n_latent", 10, 0.4),
            ("b", "network.n_latent", 10, 0.5),
        ]
    ]
    assert sensitivity.curve(runs, "network.n_latent") == [(10, 0.45, 2), (default, 0.7, 2)]
    assert f"| `network.n_latent` | 10: 45.0 · **{default}: 70.0** |" in sensitivity.table(runs)
