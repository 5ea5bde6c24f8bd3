"""Shipped files are found in a checkout and inside an installed package."""

from kdyolo.utils import shipped_files


def test_models_and_recipes_by_name():
    assert "kdyolov8.yaml" in shipped_files.shipped("models")
    assert "coco.yaml" in shipped_files.shipped("recipes")
    assert all(path.is_file() for kind in ("models", "recipes") for path in shipped_files.shipped(kind).values())
    assert shipped_files.shipped("other") == {}


def test_an_installed_package_has_them_inside(tmp_path, monkeypatch):
    (tmp_path / "kdyolo/cfg/recipes").mkdir(parents=True)
    (tmp_path / "kdyolo/cfg/recipes/mine.yaml").touch()
    monkeypatch.setattr(shipped_files, "files", lambda name: tmp_path / name)
    shipped_files.cfg_dir.cache_clear()
    try:
        assert list(shipped_files.shipped("recipes")) == ["mine.yaml"]
    finally:
        shipped_files.cfg_dir.cache_clear()
