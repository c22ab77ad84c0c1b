"""Which folders are installed: `pyproject.toml` cannot say it, as the zoo lies beside the package that ships it."""

from setuptools import find_namespace_packages, find_packages, setup

ZOO = ["codetr.zoo", *(f"codetr.zoo.{folder}" for folder in find_namespace_packages("zoo"))]

setup(
    packages=[*find_packages(include=["codetr", "codetr.*"]), *find_packages("kernels"), *ZOO],
    package_dir={"codetr_kernels": "kernels/codetr_kernels", "codetr.zoo": "zoo"},
    package_data={
        "codetr": ["py.typed"],
        "codetr_kernels": ["py.typed", "deform_attention/triton/configs/*.json"],
        **{folder: ["*.yaml"] for folder in ZOO},
    },
)
