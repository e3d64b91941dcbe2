"""Which folders the wheel holds: the package, and within it `configs` and `launch`.

The two stand at the top of a checkout, where people look for them. Installed, they are
`mae_jax.configs` and `mae_jax.launch`, so that no package of a common name is left behind.
"""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["mae_jax*"]), "mae_jax.configs", "mae_jax.launch"],
    package_dir={"mae_jax.configs": "configs", "mae_jax.launch": "launch"},
    include_package_data=False,  # the files named here, and no others
    package_data={
        "": ["*.html", "*.css", "*.js", "*.csv", "*.toml", "*.yaml"],
        "mae_jax.view": ["static/*"],
        "mae_jax.launch": ["templates/*.yaml", "*.sh", "Dockerfile*", "nextflow/**/*"],
    },
)
