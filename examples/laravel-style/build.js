// Bundle the script and the style into public/, and write down the address of each.
import { createHash } from 'node:crypto';
import { readFileSync, writeFileSync } from 'node:fs';
import { build } from 'esbuild';

await build({
  entryPoints: { 'js/app': 'resources/js/app.js', 'css/app': 'resources/css/app.css' },
  bundle: true,
  minify: true,
  outdir: 'public',
});

const manifest = {};
for (const path of ['/js/app.js', '/css/app.css']) {
  const hash = createHash('sha256').update(readFileSync(`public${path}`)).digest('hex');
  manifest[path] = `${path}?id=${hash.slice(0, 16)}`;
}
writeFileSync('public/mix-manifest.json', `${JSON.stringify(manifest, null, 2)}\n`);
