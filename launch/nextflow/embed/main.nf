// Embeddings of the wells of one plate. Options of `mae-jax embed` come through ext.args.
process MAEJAX_EMBED {
    tag "${meta.id}"
    label 'process_gpu'

    conda "${moduleDir}/environment.yml"
    // Build it with launch/Dockerfile; no registry has an image of the project.
    container "${params.maejax_container ?: 'mae-jax:cpu'}"

    input:
    tuple val(meta), path(index), path(images, stageAs: "images/*")
    path encoder

    output:
    tuple val(meta), path("${prefix}"),         emit: embeddings
    tuple val(meta), path("${prefix}.parquet"), emit: profiles
    tuple val("${task.process}"), val('maejax'), eval("mae-jax --version | sed '1!d; s/.* //'"), topic: versions, emit: versions_maejax

    when:
    task.ext.when == null || task.ext.when

    script:
    def args = task.ext.args ?: ''
    prefix = task.ext.prefix ?: "${meta.id}"
    """
    mae-jax embed \\
        --encoder ${encoder} \\
        --index ${index} \\
        --out ${prefix} \\
        --threads ${task.cpus} \\
        --quiet \\
        ${args}
    mae-jax correct --method none --embeddings ${prefix} --out ${prefix}.parquet
    """

    stub:
    prefix = task.ext.prefix ?: "${meta.id}"
    """
    mkdir -p ${prefix}
    touch ${prefix}/manifest.json ${prefix}.parquet
    """
}
